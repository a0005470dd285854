"""Job types for ccpem-pipeliner and Doppio, made from the option models: its entry points lead here.

``pipeliner`` finds them by the entry point group ``ccpem_pipeliner.jobs`` (ccpem-pipeliner 1.6's ``job_factory``). Each
runs ``gaussianem JOB`` with its output in the job's directory. The job's artifacts become output nodes; its figures are
shown as results. This module is loaded by pipeliner alone, which is no dependency of this program.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal, get_args, get_origin

from pipeliner import job_options
from pipeliner.job_options import FileDescription, JobOption, JobOptionValidationResult
from pipeliner.pipeliner_job import ExternalProgram, PipelinerCommand, PipelinerJob
from pipeliner.results_display_objects import ResultsDisplayObject
from pydantic import ValidationError

from gaussianem_core.errors import InputError
from gaussianem_core.job.events import ARTIFACTS, EVENTS, read_events
from gaussianem_core.options import JOB_OPTIONS, JobOptions, command_line, explain, hints

PREFIX = "gaussianem"
_OWN = ("job_dir", "output", "overwrite")
"""Options that say where output goes: pipeliner says that."""
_SERIES = ("volume_series",)  # artifacts that are folders


def job_option(model: type[JobOptions], name: str) -> JobOption[Any]:
    """The field of an option model as an option of pipeliner."""
    field, hint = model.model_fields[name], hints(model, name)
    kinds = [kind for kind in get_args(field.annotation) or (field.annotation,) if kind is not type(None)]
    required = field.is_required()
    default = None if required else field.default
    unit = f" ({hint['unit']})" if hint.get("unit") else ""
    words: dict[str, Any] = {
        "label": name.replace("_", " ").capitalize() + unit,
        "help_text": str(field.description),
        "jobop_group": str(hint.get("group") or "Main"),
    }
    if field.annotation is bool:
        return job_options.BooleanJobOption(default_value=bool(default), **words)
    if get_origin(field.annotation) is Literal:
        return job_options.MultipleChoiceJobOption(choices=list(map(str, kinds)), default_value=str(default), **words)
    if kinds[0] in (int, float):
        low, high = (next((getattr(m, e) for m in field.metadata if hasattr(m, e)), None) for e in ("ge", "le"))
        number = job_options.IntJobOption if kinds[0] is int else job_options.FloatJobOption
        return number(default_value=default, hard_min=low, hard_max=high, is_required=required, **words)
    endings = [pattern.removeprefix("*") for pattern in str(hint.get("filter") or "").split()]
    pattern = FileDescription(words["label"], endings) if endings else None
    if get_origin(field.annotation) is list:
        if hint.get("widget") == "file":
            return job_options.MultiExternalFileJobOption(pattern=pattern, is_required=required, **words)
        return job_options.MultiStringJobOption(is_required=required, **words)
    words |= {"default_value": default or "", "is_required": required}
    label = ARTIFACTS.get(str(hint.get("produces")))
    if label and pattern is not None:
        node = label.partition(".")[0]
        return job_options.InputNodeJobOption(node_type=node, pattern=pattern, **words)
    return job_options.StringJobOption(**words)


class GaussianEMJob(PipelinerJob):
    """A job of this program; subclasses name its option model."""

    MODEL: type[JobOptions]
    CATEGORY_LABEL = "Continuous Heterogeneity"

    def __init__(self) -> None:
        super().__init__()
        self.jobinfo.display_name = f"GaussianEM {self.MODEL.title}"
        self.jobinfo.short_desc = self.jobinfo.long_desc = (self.MODEL.__doc__ or "").strip().splitlines()[0]
        self.jobinfo.programs = [ExternalProgram("gaussianem")]
        for name in self.names():
            self.joboptions[name] = job_option(self.MODEL, name)
        self.get_runtab_options()

    @classmethod
    def names(cls) -> list[str]:
        """Options that pipeliner shows, those that matter most first."""
        return sorted(
            (name for name in cls.MODEL.model_fields if name not in _OWN),
            key=lambda name: bool(hints(cls.MODEL, name).get("advanced")),
        )

    def options(self) -> JobOptions:
        """The option model, from what was entered. Raises pydantic's ValidationError."""
        values: dict[str, Any] = {}
        for name in self.names():
            option, field = self.joboptions[name], self.MODEL.model_fields[name]
            if isinstance(option, job_options.BooleanJobOption):
                value: Any = option.get_boolean()
            elif isinstance(option, job_options.IntJobOption | job_options.FloatJobOption):
                value = None if option.value in (None, "") else option.get_number()
            elif get_origin(field.annotation) is list:
                value = [entry for entry in option.get_list() if entry]
            else:
                value = option.get_string()
            if value in (None, "", []) and (field.is_required() or not field.default):
                continue
            values[name] = value
        return self.MODEL(**values)

    def get_commands(self) -> list[PipelinerCommand]:
        """``gaussianem JOB ...``, its output in the job's directory. Raises InputError for options that are refused."""
        try:
            words = command_line(self.options())
        except ValidationError as error:
            raise explain(error) from error
        return [PipelinerCommand([*words, "--job_dir", self.output_dir])]

    def additional_joboption_validation(self) -> list[JobOptionValidationResult]:
        """Errors of the option model, those that concern several options together among them."""
        try:
            self.options()
        except ValidationError as error:
            return [JobOptionValidationResult("error", [], str(explain(error)))]
        except InputError as error:
            return [JobOptionValidationResult("error", [], str(error))]
        return []

    def create_output_nodes(self) -> None:
        """No nodes before the run: a job's outputs are known only from its artifacts."""

    def _made(self) -> dict[str, str]:
        """Files that the job said it made, and their kinds."""
        events, _ = read_events(Path(self.output_dir) / EVENTS)
        made = {e["path"]: e["kind"] for e in events if e["type"] == "artifact" and e["kind"] in ARTIFACTS}
        return {path: kind for path, kind in made.items() if (Path(self.output_dir) / path).is_file()}

    def create_post_run_output_nodes(self) -> None:
        """The job's artifacts as nodes, with the labels of RELION's graph."""
        for path, kind in self._made().items():
            node, _, rest = ARTIFACTS[kind].partition(".")
            words = [word for word in rest.split(".")[1:] if word != PREFIX]
            self.add_output_node(path, node, [*words, PREFIX])

    def create_results_display(self) -> list[ResultsDisplayObject]:
        """Figures, maps and the text of the report."""
        from pipeliner.display_tools import create_results_display_object, make_map_model_thumb_and_display

        shown, folder = [], Path(self.output_dir)
        for path, kind in self._made().items():
            file = str(folder / path)
            if kind == "plot" and path.endswith(".png"):
                words = {"title": path, "image_desc": path, "associated_data": [file]}
                shown.append(create_results_display_object("image", image_path=file, **words))
            elif kind in ("map", "volume"):
                shown.append(make_map_model_thumb_and_display(outputdir=self.output_dir, maps=[file]))
        report = folder / "report.md"
        if report.is_file():
            words = {"display_data": report.read_text(), "associated_data": [str(report)]}
            shown.append(create_results_display_object("text", title="Report", **words))
        return shown


def _job_class(model: type[JobOptions]) -> type[GaussianEMJob]:
    name = model.job_type
    members = {"MODEL": model, "PROCESS_NAME": f"{PREFIX}.{name}", "OUT_DIR": model.title, "__doc__": model.__doc__}
    return type(f"GaussianEM{model.title}", (GaussianEMJob,), members)


globals().update({f"{name}_job": _job_class(model) for name, model in JOB_OPTIONS.items() if name != "import"})
