"""Declares a study: writes its study.yaml, from which any driver can run it. The manifest is the first driver's to write."""

from __future__ import annotations

import yaml

from search_spaces.errors import MisuseError
from search_spaces.study_files import StudySpec
from study.storage.drivers import DRIVER_FILE, STOP_FILE
from study.storage.status import read_spec
from study.storage.study_folder import Storage, StudyFolder


def declare(spec: StudySpec, storage: Storage) -> StudyFolder:
    """The study's folder, with its study.yaml. Raises MisuseError if another study has that name."""
    folder = storage.study(spec.name)
    refuse_other_specification(folder, spec)
    write_specification(folder, spec)
    return folder


def write_specification(folder: StudyFolder, spec: StudySpec) -> None:
    """Write study.yaml if there is none. That of a search is written again, because its budget may have changed."""
    if spec.search or not folder.exists():
        folder.write_text("study.yaml", yaml.safe_dump(spec.to_mapping(), sort_keys=False, allow_unicode=True))


def refuse_other_specification(folder: StudyFolder, spec: StudySpec) -> None:
    """Raise MisuseError if the study's folder holds another study than this one, or something that is no study."""
    if not folder.exists() and (other := set(folder.listing()) - {DRIVER_FILE, STOP_FILE}):
        raise MisuseError(
            f"{folder.place()} exists and is not a study (it holds {min(other)}). Choose another --name or --storage; "
            "nothing in it was touched."
        )
    if folder.exists() and (stored := read_spec(folder)).science() != spec.science():
        differing = [key for key, value in spec.science().items() if value != stored.science().get(key)]
        raise MisuseError(
            f"study={spec.name!r} exists in {folder.storage.given!r} with another specification (it differs in "
            f"{', '.join(differing)}). Give this one another name with --name, or `{folder.command('resume')}` the old one."
        )
