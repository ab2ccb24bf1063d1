"""Students on a real Ray cluster of this machine."""

import pytest
import ray
import torch
from ray.cluster_utils import Cluster

from n2n_gym.evaluators.cluster import RayWorkers
from n2n_gym.evaluators.evaluator import evaluate
from n2n_gym.evaluators.loading import load_runner
from n2n_gym.evaluators.rungs import Rung
from n2n_gym.evaluators.runner import InProcess
from n2n_gym.evaluators.scoring import DistillationEvaluator
from n2n_gym.networks.decisions import RATES, shrink, shrinkages
from n2n_gym.pytorch.recipe import Recipe
from n2n_gym.rewards import Failure, Score

pytestmark = pytest.mark.filterwarnings("ignore::ResourceWarning:ray")
CPU = torch.device("cpu")
SLOW = Rung("slow", recipe=Recipe(20, 32, learning_rate=0.05, logit_weight=0.1))


def make(rung, runner) -> DistillationEvaluator:
    return DistillationEvaluator(rung, device="cpu", precision="float32", runner=runner)


@pytest.fixture(scope="module")
def cluster():
    """A head that measures nothing, and two nodes of one CPU each."""
    found = Cluster(initialize_head=True, head_node_args={"num_cpus": 0})
    found.add_node(num_cpus=1)
    ray.init(found.address, log_to_driver=False)
    yield found
    ray.shutdown()
    found.shutdown()


@pytest.fixture(scope="module")
def students(teacher):
    start = teacher.architecture
    return [shrink(start, dict.fromkeys(shrinkages(start), r)) for r in RATES[2:]]


@pytest.mark.slow
def test_scores_are_those_of_any_other_place(teacher, students, cluster):
    rung = Rung("quick", recipe=Recipe(1, 32, learning_rate=0.1))
    found = [
        evaluate(students, teacher, make(rung, runner))
        for runner in (InProcess(), load_runner("ray"))
    ]
    assert found[0] == found[1]
    assert all(isinstance(score, Score) for score in found[0])


@pytest.mark.slow
def test_students_of_a_lost_node_are_measured_on_another(teacher, students, cluster):
    doomed = cluster.add_node(num_cpus=1)
    cluster.wait_for_nodes()
    expected = evaluate(students, teacher, make(SLOW, InProcess()))

    lost = []

    class Noticing(RayWorkers):
        def run(self, *arguments):
            for number, result in enumerate(super().run(*arguments)):
                lost.extend([result.result] * isinstance(result.result, Failure))
                if not number and doomed in cluster.worker_nodes:
                    # Another student is under way on each of the nodes.
                    cluster.remove_node(doomed, allow_graceful=False)
                yield result

    assert evaluate(students, teacher, make(SLOW, Noticing())) == expected
    assert doomed not in cluster.worker_nodes
    assert all(failure.retryable for failure in lost)
    assert lost
