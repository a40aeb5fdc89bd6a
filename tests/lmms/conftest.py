"""lmms-eval in this process; the tests run where it is installed (`make test-lmms`)."""

import os
from importlib.metadata import PackageNotFoundError, version

import pytest

try:
    version("lmms_eval")
except PackageNotFoundError:
    collect_ignore_glob = ["test_*.py"]  # and leave the environment of the other tests alone
else:
    os.environ |= {"HF_DATASETS_OFFLINE": "1", "WANDB_MODE": "disabled"}


@pytest.fixture(scope="session")
def tasks(tmp_path_factory):
    """The folder of local tasks, see `support.lmms_tasks`; what `datasets` makes of them lies beside it."""
    from support.lmms_tasks import write_tasks

    os.environ["HF_DATASETS_CACHE"] = str(tmp_path_factory.mktemp("datasets"))
    return write_tasks(tmp_path_factory.mktemp("tasks"))


@pytest.fixture(scope="session")
def evaluated(tasks):
    """simple_evaluate(names of tasks, model_args, **options): lmms-eval's results, samples by task among them."""
    from lmms_eval.evaluator import simple_evaluate
    from lmms_eval.tasks import TaskManager

    manager = TaskManager("ERROR", include_path=str(tasks), include_defaults=False, model_name="groundprune")

    def run(names, model_args, **options):
        return simple_evaluate(
            "groundprune",
            model_args=model_args,
            tasks=list(names),
            task_manager=manager,
            bootstrap_iters=0,
            **options,
        )

    return run
