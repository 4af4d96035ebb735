"""Suites that put a load on the endpoint and measure how fast it answers."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from containers.endpoint_key import authorization
from containers.evaluate import sanity
from containers.evaluate.client import Client, Rejected
from containers.evaluate.declaration import parse
from containers.evaluate.load import page
from containers.evaluate.load.declaration import LoadDeclaration
from containers.evaluate.load.generator import Generator
from containers.evaluate.load.judge import judge
from containers.evaluate.load.measurement import SpeedMeasurement
from containers.evaluate.suite import Judgement

if TYPE_CHECKING:
    from pathlib import Path

    from containers.evaluate.suite import Sizes
    from containers.parameters import EvaluateOptions, EvaluateParameters
    from containers.step import Context
    from containers.store import Store
    from containers.suites import SuiteFiles

_BEARER: Final = "Bearer "


@dataclass(frozen=True)
class LoadSuite:
    """See `containers.evaluate.suite.Suite`."""

    declared: LoadDeclaration
    files: SuiteFiles

    @classmethod
    def read(cls, files: SuiteFiles) -> LoadSuite:
        return cls(parse(files, LoadDeclaration), files)

    def check(self, context: Context) -> None:
        """A load generator of the user's own must be one; else it comes with the server."""
        if context.settings.evaluate.load_python is not None:
            Generator.find(context.settings.evaluate.load_python)

    def measure(
        self, parameters: EvaluateParameters, options: EvaluateOptions, store: Store, context: Context
    ) -> dict[str, bytes]:
        generator = Generator.find(context.settings.evaluate.load_python)
        headers = dict(authorization(context.settings.evaluate, options.endpoint))
        version = asyncio.run(_answers(options, self.declared.serving.max_model_len, headers))
        context.report.log(f"load by {generator.version}, {options.hardware or 'on hardware that is not known'}")
        loads = generator.run(
            self.declared.load,
            options,
            key=headers.get("Authorization", "").removeprefix(_BEARER),
            seed=int(self.files.digest.hex[:7], 16),
            scratch=context.scratch / "load",
            report=context.report,
        )
        return SpeedMeasurement(
            suite=self.declared.name,
            suite_digest=self.files.digest,
            subject=parameters.subject,
            server=parameters.server.rpartition(" on ")[0] or parameters.server,  # the hardware has its own field
            server_version=version,
            hardware=options.hardware,
            emulated_fp8=options.emulated_fp8,
            generator=f"vllm bench serve of {generator.version}",
            prompt_tokens=self.declared.load.prompt_tokens,
            output_tokens=self.declared.load.output_tokens,
            loads=loads,
        ).files()

    def judge(self, candidate: Path, baseline: Path, sizes: Sizes) -> Judgement:
        report = judge(
            self.files, self.declared, SpeedMeasurement.read(candidate), SpeedMeasurement.read(baseline), sizes
        )
        return Judgement(report.verdict, report, page.render(report))


async def _answers(options: EvaluateOptions, needed: int, headers: dict[str, str]) -> str:
    """The version of a server with a long enough context; empty for one that does not say."""
    async with Client(options, headers=headers) as client:
        await sanity.served(client, needed)
        try:
            said = await client.get(f"{client.root}/version")
        except Rejected:  # only vLLM has it
            return ""
        return str(said.get("version", "")) if isinstance(said, dict) else ""
