"""The report: one HTML page about a study, with findings in sentences, figures, tables, and how the study was made.

`findings.py` computes the sentences, `sections.py` makes the figures and tables, `report.html` is the template.
"""

from __future__ import annotations

import base64
import io
import json
import platform
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from importlib.resources import files
from itertools import groupby
from typing import Any

import jinja2
import numpy as np
import pandas as pd
import pyarrow as pa
from pyarrow import csv
from threadpoolctl import threadpool_limits

from analysis.figures.render import Artist, Images, own_settings
from analysis.report.findings import findings as findings
from analysis.report.findings import page_findings
from analysis.report.findings import verdict_table as verdict_table
from analysis.report.layout import Panel, Section, Sheet, cell_text
from analysis.report.sections import MOST_LINES, sections
from analysis.report.study_rows import StudyRows, study_rows
from search_spaces.paths import Given, local_path
from study.storage.local_files import refuse_unwritable_folder, write_out
from study.storage.status import existing_study
from study.storage.study_folder import DEFAULT_STORAGE, StudyFolder

FOLD_ABOVE = 30
"""Tables of more rows are folded and open on demand."""
DRAWN_APART_FROM = 20_000
"""Number of rows from which on figures are drawn by a second process, which takes a second to start."""
MOST_ROWS_AS_CSV = 250_000
"""With more rows the report holds only the Parquet file: as text, a million rows take a gigabyte."""
MOST_CHARACTERS_OF_STUDY_FILE = 6_000
RESULT, ARCHITECTURE = "result", "architecture-"
"""The anchor of the result's section, and how those of architectures begin."""
Write = Callable[[str, bytes], None]


_WORDS = re.compile(r"[A-Za-z“]|\d+-\d+-\d+")
"""The beginning of cells in left-aligned columns: a word, or an architecture."""


@dataclass(frozen=True)
class _Drawn:
    """A panel in the form that the template takes."""

    name: str
    caption: str
    wide: bool
    image: str
    """The PNG in base64."""
    width: int
    """The width of the image on the page, in CSS pixels."""


@np.errstate(all="warn", under="ignore")  # NumPy's own, whatever the caller has set
def write_report(study: str, storage: Given = DEFAULT_STORAGE, out: Given | None = None) -> str:
    """Write index.html, its figures (PNG, SVG), tables (CSV), the rows (CSV, Parquet), study.yaml; returns where the page is.

    The files go to report/ in the study's folder unless `out` names a local folder. A few autoencoders are trained again for
    their WᵀW matrices, because rows hold no weights. Raises MisuseError, before any work, if nothing can be written there.
    """
    folder = existing_study(study, storage)
    page, write = _destination(folder, out)
    rows = study_rows(study, storage)
    # One thread for the linear algebra library: matrices are small, and other cores are drawing.
    with threadpool_limits(1, "blas"), own_settings(), Artist(apart=len(rows.rows) >= DRAWN_APART_FROM) as artist:
        drawn = [(section, [artist.draw(panel.figure) for panel in section.panels]) for section in sections(rows)]
        downloads = _write_rows(rows.rows, write)  # while the last figures are drawn
        shown = [_shown(section, [later.result() for later in images], write) for section, images in drawn]
    write("study.yaml", (folder.read_text("study.yaml") or "").encode())
    write("index.html", _page(rows, folder, shown, downloads).encode())
    return page


def _destination(folder: StudyFolder, out: Given | None) -> tuple[str, Write]:
    """Where the page will be, and what writes its files there. Raises MisuseError if nothing can be written there."""
    if out is None:
        folder.refuse_unwritable("report", "Choose another folder for the report with --out.")
        return folder.place("report/index.html"), lambda name, content: folder.write_bytes(f"report/{name}", content)
    place = local_path(out, "--out")
    refuse_unwritable_folder(place, "--out")

    def write(name: str, content: bytes) -> None:
        write_out(place / name, "--out", lambda part: part.write_bytes(content))

    return f"{place}/index.html", write


def _shown(section: Section, images: Sequence[Images], write: Write) -> dict[str, Any]:
    """A section in the form that the template takes; its figures and tables are written on the way."""
    return {
        "title": section.title,
        "anchor": section.anchor,
        "text": section.text,
        "sentences": list(section.sentences),
        "panels": [_drawn(panel, *pair, write) for panel, pair in zip(section.panels, images)],
        "sheets": [_tabulated(sheet, write) for sheet in section.sheets],
        "folded": section.folded,
    }


def _drawn(panel: Panel, png: bytes, svg: bytes, write: Write) -> _Drawn:
    write(f"{panel.name}.png", png)
    write(f"{panel.name}.svg", svg)
    return _Drawn(panel.name, panel.caption, panel.wide, base64.b64encode(png).decode(), round(96 * panel.figure.get_figwidth()))


def _tabulated(sheet: Sheet, write: Write) -> dict[str, Any]:
    """A table with at most MOST_LINES rows for the page, and all rows in its file."""
    write(f"{sheet.name}.csv", sheet.data.to_csv(index=False).encode())
    table = sheet.data if sheet.shown is None else sheet.shown
    return {
        "name": sheet.name,
        "note": sheet.note,
        "heads": list(table.columns),
        "words": [any(isinstance(value, str) and _WORDS.match(value) for value in table[column]) for column in table],
        "rows": [[cell_text(value) for value in row] for row in table.head(MOST_LINES).itertuples(index=False)],
        "length": len(table),
        "folded": len(table) > FOLD_ABOVE,
    }


def _write_rows(rows: pd.DataFrame, write: Write) -> list[str]:
    """Write all rows, for readers who want to compute something else; returns the names of the files."""
    parquet, names = io.BytesIO(), ["rows.parquet"]
    rows.to_parquet(parquet, index=False)
    write("rows.parquet", parquet.getvalue())
    if len(rows) <= MOST_ROWS_AS_CSV:
        text = io.BytesIO()
        csv.write_csv(pa.Table.from_pandas(rows, preserve_index=False), text)  # pandas' own takes ten times as long
        write("rows.csv", text.getvalue())
        names.append("rows.csv")
    return names


def _page(study: StudyRows, folder: StudyFolder, shown: list[dict[str, Any]], downloads: list[str]) -> str:
    environment = jinja2.Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True)
    template = environment.from_string((files("analysis.report") / "report.html").read_text(encoding="utf-8"))
    protocols = study.spec.protocols
    named = f"protocol {protocols[0].name} ({protocols[0].protocol_id})" if len(protocols) == 1 else f"{len(protocols)} protocols"
    findings = {of.anchor: of for of in page_findings(study)}
    anchors = {section["anchor"] for section in shown}
    text = folder.read_text("study.yaml") or ""
    return template.render(
        title=f"Where SAEs fail: study {study.name}",
        subtitle=f"{len(study.rows)} replicates, {named}, {study.spec.dtype}",
        result=next((section for section in shown if section["anchor"] == RESULT), None),
        parts=_parts([section for section in shown if section["anchor"] != RESULT]),
        findings=findings,
        placeless=[of for anchor, of in findings.items() if anchor not in anchors],
        style=(files("analysis.report") / "style.css").read_text(encoding="utf-8"),
        command=f"sae-study launch study.yaml\nsae-study report {study.name}",
        study_file=text if len(text) <= MOST_CHARACTERS_OF_STUDY_FILE else "",
        versions=_versions(folder),
        manifest=json.dumps(folder.read_json("manifest.json") or {}, indent=2),
        downloads=downloads,
        most=MOST_LINES,
    )


def _parts(shown: list[dict[str, Any]]) -> list[tuple[str, list[dict[str, Any]]]]:
    """The sections in their order, those of the architectures together under a heading of their own."""
    grouped = groupby(shown, lambda section: section["anchor"].startswith(ARCHITECTURE))
    return [("By architecture" if of_architectures else "", list(own)) for of_architectures, own in grouped]


def _versions(folder: StudyFolder) -> str:
    """The versions with which the study was trained and the page was made."""
    made = (folder.read_json("manifest.json") or {}).get("versions", {})
    drawn = {name: version(name) for name in ("sae-study", "matplotlib", "numpy", "scipy", "pandas")}
    trained = ", ".join(f"{name} {number}" for name, number in made.items()) or "not recorded"
    return f"Trained with {trained}. Page made with python {platform.python_version()}, " + ", ".join(
        f"{name} {number}" for name, number in drawn.items()
    )
