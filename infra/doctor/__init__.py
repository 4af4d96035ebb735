"""`carwright doctor`: checks of this machine and of the services that the settings name, one module for each area."""

from infra.doctor.line import Check, Line, examine

__all__ = ["Check", "Line", "examine"]
