"""That the field's fixtures do what the other files here rely on."""

from __future__ import annotations

from tests.field.conftest import Run


def test_the_command_runs_from_a_foreign_folder(sae_study: Run) -> None:
    done = sae_study("list", "--storage", "nowhere")

    assert done.returncode == 0
    assert done.stdout.startswith("No studies in 'nowhere'.")


def test_a_namespace_has_mounts_of_its_own(in_namespace: Run) -> None:
    done = in_namespace(
        "mkdir small && mount -t tmpfs -o size=64k tmpfs small && $SAE_STUDY list --storage small && df small | tail -1"
    )

    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1].split()[1] == "64"
