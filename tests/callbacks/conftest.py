"""Fixtures of the tests of callbacks."""

import pytest
import torch
from torch import nn


@pytest.fixture
def one_graph_of_a_container():
    """Skip where torch compiles a container in place, such as a Sequential, in parts.

    torch 2.6 does: there each hook is code of its own, and the loss does not depend on the samples that it takes. The
    callback warns that nothing was added. ``torch.compile(net)`` instead of ``net.compile()`` works with every release.
    """
    graphs = []

    def backend(graph, inputs):
        graphs.append(graph)
        return graph.forward

    torch._dynamo.reset()
    container = nn.Sequential(nn.Linear(2, 2), nn.Tanh())
    container.compile(backend=backend)
    container(torch.zeros(1, 2))
    torch._dynamo.reset()
    if len(graphs) != 1:
        pytest.skip(f"torch {torch.__version__} compiles no container in place as one graph")
