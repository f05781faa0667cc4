from functools import partial

import pytest
import torch

from ortho_lightning import OrthogonalConstraint
from ortho_lightning.errors import ConfigurationError
from ortho_lightning.models import Classifier, PointNet, SmallCNN, resnet18_cifar
from ortho_lightning.models.classifier import cosine, one_cycle


def parameters(model):
    return sum(p.numel() for p in model.parameters())


def test_sizes_are_the_published_ones():
    assert 0.25e6 < parameters(SmallCNN()) < 0.35e6
    assert parameters(resnet18_cifar()) == 11_173_962  # ResNet-18 with a 3 x 3 stem and ten classes
    # the paper's classifier has 3.5 M parameters with both transforms and 40 classes, 0.8 M without
    assert 3.3e6 < parameters(PointNet(40, feature_transform=True)) < 3.6e6
    assert 0.75e6 < parameters(PointNet(40, input_transform=False)) < 0.85e6


@pytest.mark.parametrize("net", [SmallCNN(), resnet18_cifar()])
def test_image_networks_keep_the_resolution_of_small_images(net):
    assert net(torch.randn(2, 3, 32, 32)).shape == (2, 10)
    first = net.conv1 if hasattr(net, "conv1") else net.blocks[0][0]
    assert first(torch.randn(1, 3, 32, 32)).shape[-2:] == (32, 32)


def test_without_norms_activations_keep_their_size_through_the_layers():
    torch.manual_seed(0)
    net = SmallCNN(width=64, norm=None)
    assert not any(isinstance(module, torch.nn.BatchNorm2d) for module in net.modules())
    sizes = []
    for block in net.blocks:
        block[0].register_forward_hook(lambda _, __, output: sizes.append(output.square().mean().item()))
    net(torch.randn(8, 3, 32, 32))
    # of normal inputs a layer keeps the mean square; a margin of zeros takes a seventh at 8 x 8 pixels, pooling adds
    without_pooling = [sizes[i + 1] / sizes[i] for i in (0, 2, 4)]
    assert all(0.75 < ratio < 1.2 for ratio in without_pooling)
    assert all(1 < sizes[i + 1] / sizes[i] < 5 for i in (1, 3))


def test_dropout_is_of_the_features_that_the_last_layer_reads():
    net = SmallCNN(width=4, dropout=0.5)
    seen = []
    net.head.register_forward_hook(lambda _, args, __: seen.append(args[0]))
    torch.manual_seed(0)
    net(torch.randn(256, 3, 8, 8))
    dropped = net.blocks[-1](torch.zeros(1, 16, 2, 2)).shape[1]
    assert seen[0].shape == (256, dropped)
    kept = (seen[0] != 0).float().mean(0)
    alive = kept > 0  # a channel whose ReLU never fires is 0 anyway
    assert (kept[alive] - 0.5).abs().max() < 0.15
    net.eval()
    plain = SmallCNN(width=4).eval()
    plain.load_state_dict(net.state_dict())
    x = torch.randn(2, 3, 8, 8)
    assert torch.equal(plain(x), net(x))


@pytest.mark.parametrize("options", [{"norm": "layer"}, {"dropout": 1.0}, {"width": 1}])
def test_bad_options_of_the_small_cnn_are_named(options):
    with pytest.raises(ConfigurationError, match=f"{next(iter(options))}="):
        SmallCNN(**options)


def test_pointnet_does_not_depend_on_the_order_of_points():
    net = PointNet(width=8, feature_transform=True).eval()
    x = torch.randn(3, 3, 20)
    torch.testing.assert_close(net(x[..., torch.randperm(20)]), net(x))


def test_transforms_begin_as_the_identity():
    plain = PointNet(width=8, input_transform=False).eval()
    aligned = PointNet(width=8, input_transform=True).eval()
    aligned.load_state_dict(plain.state_dict(), strict=False)
    x = torch.randn(3, 3, 20)
    torch.testing.assert_close(aligned(x), plain(x))


def test_transform_penalty_is_half_the_squared_distance_from_orthogonal_matrices_summed_over_the_batch():
    net = PointNet(width=8, feature_transform=True, transform_penalty=0.5)
    logits, penalty = net(torch.randn(4, 3, 20))
    assert logits.shape == (4, 10)
    assert penalty.item() == 0.0
    torch.nn.init.constant_(net.feature_transform.matrix.bias, 0.0)
    assert net(torch.randn(4, 3, 20))[1].item() == pytest.approx(0.5 * 4 * 8 / 2)
    assert isinstance(net.eval()(torch.randn(4, 3, 20)), torch.Tensor)
    with pytest.raises(ConfigurationError, match="transform_penalty=1"):
        PointNet(transform_penalty=1.0)


def test_weight_decay_spares_biases_and_norms():
    module = Classifier(SmallCNN(width=4), 10, partial(torch.optim.SGD, lr=0.1, weight_decay=0.5), "constant")
    decayed, spared = module.configure_optimizers().param_groups
    assert {p.dim() for p in decayed["params"]} == {2, 4}
    assert spared["weight_decay"] == 0.0
    assert len(decayed["params"]) + len(spared["params"]) == len(list(module.net.parameters()))


@pytest.mark.parametrize("options", [{"schedule": "linear"}, {"warmup": 0.0}, {"label_smoothing": 1.0}])
def test_bad_arguments_are_named(options):
    with pytest.raises(ConfigurationError, match=f"{next(iter(options))}="):
        Classifier(SmallCNN(width=4), 10, torch.optim.SGD, **options)


def test_one_cycle_is_that_of_torch():
    weight = torch.nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.SGD([weight], lr=1.0)
    theirs = torch.optim.lr_scheduler.OneCycleLR(optimizer, 1.0, total_steps=101, pct_start=0.31, cycle_momentum=False)
    rates = []
    for _ in range(100):
        rates.append(theirs.get_last_lr()[0])
        optimizer.step()
        theirs.step()
    # torch's peak stands one step before pct_start of the steps
    ours = [one_cycle(step / 100, warmup=0.31 * 101 / 100 - 0.01) for step in range(100)]
    assert ours == pytest.approx(rates, abs=0.01)


def test_cosine_falls_to_zero():
    assert [cosine(p) for p in (0.0, 0.5, 1.0)] == pytest.approx([1.0, 0.5, 0.0])


def test_weight_decay_spares_filters_of_a_fixed_length():
    module = Classifier(SmallCNN(width=4), 10, partial(torch.optim.SGD, lr=0.1, weight_decay=0.5), "constant")
    OrthogonalConstraint(layers="net.blocks.*").apply(module)
    decayed, spared = module.configure_optimizers().param_groups
    assert [id(p) for p in decayed["params"]] == [id(module.net.head.weight)]
    assert len(decayed["params"]) + len(spared["params"]) == len(list(module.net.parameters()))
