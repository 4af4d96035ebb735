"""Which fields of an object are whose. The entries of managedFields are as `kubectl get --show-managed-fields` prints them."""

from __future__ import annotations

from typing import Any

from infra.cluster.managed_fields import applied_by, overlay, split


def deployment() -> dict[str, Any]:
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {
            "name": "web",
            "namespace": "models",
            "uid": "1",
            "labels": {"app": "web", "team": "search"},
            "finalizers": ["a/b", "c/d"],
            "managedFields": [
                {
                    "manager": "carwright",
                    "operation": "Apply",
                    "apiVersion": "apps/v1",
                    "fieldsType": "FieldsV1",
                    "fieldsV1": {
                        "f:metadata": {"f:labels": {"f:app": {}}, "f:finalizers": {'v:"a/b"': {}}},
                        "f:spec": {
                            "f:strategy": {},
                            "f:template": {
                                "f:spec": {
                                    "f:containers": {
                                        'k:{"name":"web"}': {
                                            ".": {},
                                            "f:image": {},
                                            "f:name": {},
                                            "f:ports": {
                                                'k:{"containerPort":80,"protocol":"TCP"}': {
                                                    ".": {},
                                                    "f:containerPort": {},
                                                }
                                            },
                                        }
                                    }
                                }
                            },
                        },
                    },
                },
                {"manager": "carwright", "operation": "Update", "fieldsV1": {"f:spec": {"f:replicas": {}}}},
                {
                    "manager": "carwright",
                    "operation": "Apply",
                    "subresource": "status",
                    "fieldsV1": {"f:status": {"f:replicas": {}}},
                },
                {"manager": "scaler", "operation": "Apply", "fieldsV1": {"f:spec": {"f:replicas": {}}}},
            ],
        },
        "spec": {
            "replicas": 3,
            "strategy": {"type": "Recreate"},
            "template": {
                "spec": {
                    "containers": [
                        {"name": "sidecar", "image": "proxy"},
                        {
                            "name": "web",
                            "image": "nginx",
                            "tty": True,
                            "ports": [{"containerPort": 80, "protocol": "TCP", "name": "http"}],
                        },
                    ]
                }
            },
        },
        "status": {"replicas": 3},
    }


def test_what_one_manager_has_applied() -> None:
    """Neither what others have set, nor what it has changed by other means, nor what the server adds."""
    assert applied_by("carwright", deployment()) == {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": "web", "namespace": "models", "labels": {"app": "web"}, "finalizers": ["a/b"]},
        "spec": {
            "strategy": {"type": "Recreate"},
            "template": {
                "spec": {
                    "containers": [
                        {"name": "web", "image": "nginx", "ports": [{"containerPort": 80, "protocol": "TCP"}]}
                    ]
                }
            },
        },
    }


def test_a_manager_that_has_applied_nothing() -> None:
    """Its manifest gives up everything."""
    assert applied_by("stranger", deployment()) == {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": "web", "namespace": "models"},
    }


def test_fields_of_a_conflict_are_taken_out_of_a_manifest() -> None:
    """Named as the server names them, dots within keys and items of lists included."""
    manifest = {
        "metadata": {"name": "web", "annotations": {"a.b/c": "x", "d": "y"}},
        "spec": {"replicas": 1, "containers": [{"name": "web"}], "paused": False},
    }
    fields = [".spec.replicas", ".metadata.annotations.a.b/c", '.spec.containers[name="web"].image']
    assert split(manifest, fields) == (
        {"metadata": {"name": "web", "annotations": {"d": "y"}}, "spec": {"paused": False}},
        {"metadata": {"annotations": {"a.b/c": "x"}}, "spec": {"replicas": 1, "containers": [{"name": "web"}]}},
    )


def test_what_was_there_is_laid_over_a_manifest() -> None:
    """Under the paths of the third; what was not there is not made."""
    before = {"spec": {"replicas": 3, "paused": True}}
    assert overlay({"spec": {"a": 1}}, before, {"spec": {"replicas": 1, "more": 2}}) == {
        "spec": {"a": 1, "replicas": 3}
    }
