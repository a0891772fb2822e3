"""A cluster of three nodes, as docs/many_machines.md says, one of which dies in the midst of a synthesis."""

import subprocess
import sys

import processes
import pytest
import ray_nodes
from synthesis_runs import EXACT, MANY, command, instructions_file, load, recorded, run, wait_for
from tacit.support.errors import TacitError

SHARDS = len(MANY) // 3


def check_that_a_token_is_asked_for(pair, out, cluster, monkeypatch):
    """This process has no token, or the one that a Ray of its own made."""
    monkeypatch.setattr("ray._private.ray_constants.NUM_REDIS_GET_RETRIES", 1)  # of 20, a second each
    with pytest.raises(TacitError) as error:
        run(pair, out, workers=2, ray_address=cluster.address)
    assert f"cannot reach Ray at {cluster.address}: authentication failed (" in str(error.value)
    assert "set RAY_AUTH_MODE=token, and RAY_AUTH_TOKEN_PATH to the file" in str(error.value)


def lose_a_node(process, out, cluster):
    """Kill a node that has a worker, but not the head, when a shard is recorded. How many are recorded then?"""
    wait_for(lambda: any(map(ray_nodes.has_workers, cluster.nodes[1:])) or process.poll() is not None, seconds=240)
    node = next(filter(ray_nodes.has_workers, cluster.nodes[1:]), None)
    wait_for(lambda: recorded(out) or process.poll() is not None, seconds=240)
    assert node and process.poll() is None, process.communicate()[0]
    ray_nodes.die(node)
    return recorded(out)


@pytest.mark.slow
def test_a_cluster_with_a_token_loses_a_node_and_makes_the_rows_of_one_process(pair, tmp_path, monkeypatch):
    out = tmp_path / "out"
    expected = run(pair, tmp_path / "alone", MANY).to_list()
    with ray_nodes.cluster() as cluster:
        check_that_a_token_is_asked_for(pair, tmp_path / "refused", cluster, monkeypatch)
        words = command(pair, out, instructions_file(tmp_path, MANY), "--shard-size", "3", "--workers", "2")
        with processes.start(
            [sys.executable, "-m", "tacit", *words, "--ray-address", cluster.address],
            env=cluster.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        ) as process:
            try:
                at_death = lose_a_node(process, out, cluster)
                output, _ = process.communicate(timeout=240)
            finally:
                process.kill()
    print(f"shards of {SHARDS} recorded when a node died: {at_death}")
    assert process.returncode == 0, output
    assert 1 <= at_death < SHARDS
    assert f"{len(MANY)} rows are in" in output and "Traceback" not in output
    assert len(list((out / "data").iterdir())) == SHARDS
    assert [[row[c] for c in EXACT] for row in load(out).to_list()] == [[row[c] for c in EXACT] for row in expected]
