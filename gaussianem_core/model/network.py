"""The variational network: image encoder, Gaussian encoder and decoder (He et al., arXiv 2512.21599, Methods).

Parameter names and shapes are those of the published checkpoints. The function is the same, arranged for speed: the
decoder's first layer is split into a latent part (one row an image) and a Gaussian part (one row a
Gaussian), and its last layer, which has no activation, is multiplied into the heads' first layers.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

import torch
from torch import nn

from gaussianem_core.errors import InputError
from gaussianem_core.kernels.support import triton_runs
from gaussianem_core.model.configuration import Configuration
from gaussianem_core.model.deformation import Deformed, deform_gaussians, split_change
from gaussianem_core.model.gauge import Gauge
from gaussianem_core.model.gaussians import Gaussians
from gaussianem_core.model.pair_decoder import FUSED_WIDTHS, decode_pairs, fused_available


def mlp(sizes: list[int], normalised: bool = False) -> nn.Sequential:
    """Linear layers of ``sizes`` units with ReLU between them; ``normalised`` puts batch norm before the last (as in
    the published encoder)."""
    layers: list[nn.Module] = []
    for inputs, outputs in pairwise(sizes[:-1]):
        layers += [nn.Linear(inputs, outputs), nn.ReLU()]
    if normalised:
        layers.append(nn.BatchNorm1d(sizes[-2]))
    return nn.Sequential(*layers, nn.Linear(sizes[-2], sizes[-1]))


class ImageEncoder(nn.Module):
    """Flattened images (B, D, D) to mean and log-variance of their latents, (B, zdim) each.

    ``pixels``: D^2. ``qdim``, ``qlayers``: units of the hidden layers, and their number beside the first.
    """

    def __init__(self, pixels: int, qdim: int, qlayers: int, zdim: int) -> None:
        super().__init__()
        self.zdim = zdim
        self.main = mlp([pixels, *[qdim] * (qlayers + 1), 2 * zdim], normalised=True)

    def forward(self, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:  # (B, D, D) -> 2 x (B, zdim)
        """Mean and log-variance of the images' latents."""
        mean, log_variance = self.main(images.flatten(1)).split(self.zdim, dim=1)
        return mean, log_variance


class PairDecoder(NamedTuple):
    """Weights of the layers that are computed for every (image, Gaussian) pair, see ``pair_decoder``.

    hidden : [(k, k) weight, (k,) bias] for each layer after the first.
    head : (2F, k) and (2F,), density and position heads' first layers times the feature layer.
    out : (4, 2F) and (4,), block-diagonal: density change, then x, y, z.
    rounded : the same as the fused kernels take them, where they have been formed.
    """

    hidden: Sequence[tuple[torch.Tensor, torch.Tensor]]
    head_weight: torch.Tensor
    head_bias: torch.Tensor
    out_weight: torch.Tensor
    out_bias: torch.Tensor
    rounded: Sequence[torch.Tensor] | None = None

    @property
    def fuses(self) -> bool:
        """Whether the fused kernels run on the weights' device; they do not keep the widest activations."""
        return fused_available(self.head_weight, self.head_weight, len(self.hidden))


class Prepared(NamedTuple):
    """What the decoder reads for B latents and N Gaussians: both parts of the first layer, (B, k) and (N, k), and the
    weights of the rest."""

    latents: torch.Tensor
    gaussians: torch.Tensor
    decoder: PairDecoder


class Network(nn.Module):
    """Image encoder, Gaussian encoder and decoder. ``forward`` is not used: training calls the parts.

    ``box`` in pixels; the other sizes are those of ``cfg.json`` (``NetworkOptions``).
    """

    def __init__(
        self,
        box: int,
        *,
        zdim: int = 10,
        qlayers: int = 3,
        qdim: int = 1024,
        gaussian_klayers: int = 3,
        gaussian_kdim: int = 128,
        gaussian_embedding_dim: int = 32,
        feature_klayers: int = 2,
        feature_kdim: int = 128,
        feature_dim: int = 256,
    ) -> None:
        super().__init__()
        self.zdim = zdim
        self.encoder = ImageEncoder(box * box, qdim, qlayers, zdim)
        embedding = mlp([5, *[gaussian_kdim] * (gaussian_klayers + 1), gaussian_embedding_dim])
        self.gaussian_embedding = nn.Sequential(*embedding, nn.LayerNorm(gaussian_embedding_dim))
        self.feature_decoder = mlp(
            [zdim + gaussian_embedding_dim, *[feature_kdim] * (feature_klayers + 1), feature_dim]
        )
        self.d_density = mlp([feature_dim, feature_dim, 1])
        self.d_scaling = mlp([feature_dim, feature_dim, 1])  # published checkpoints hold it; it is never used
        self.d_xyz = mlp([feature_dim, feature_dim, 3])

    def embed(self, gaussians: Gaussians, precision: str = "float32") -> torch.Tensor:  # -> (N, gaussian_embedding_dim)
        """Embedding of the consensus Gaussians, computed once a step, without a gradient to them.

        ``precision``: "float32", else products may round their operands to TF32 (fused kernels on CUDA).
        """
        features = gaussians.features.detach()
        *between, norm = self.gaussian_embedding
        layers = [layer for layer in between if isinstance(layer, nn.Linear)]
        if precision == "float32" or not encoder_fuses(features, layers):
            return self.gaussian_embedding(features)
        from gaussianem_core.kernels.gaussian_encoder_triton import FusedEncoder

        first, *inner, last = layers
        ends = (first.weight, first.bias, last.weight, last.bias)
        rest = [*(layer.weight for layer in inner), *(layer.bias for layer in inner)]
        assert isinstance(norm, nn.LayerNorm)
        save = torch.is_grad_enabled() and norm.weight.requires_grad
        return FusedEncoder.apply(save, features, norm.eps, norm.weight, norm.bias, *ends, *rest)

    def first_layer(self) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:  # -> (k, zdim), (k, E), (k,)
        """The decoder's first layer in two: weights of the latents and of the embedding, and the bias."""
        first = self.feature_decoder[0]
        assert isinstance(first, nn.Linear)
        of_z, of_gaussian = first.weight.split([self.zdim, first.in_features - self.zdim], dim=1)
        return of_z, of_gaussian, first.bias

    def pair_decoder(self, precision: str = "float32") -> PairDecoder:
        """Weights of the pair computation, formed from the parameters; differentiable.

        ``precision`` of :meth:`change`: unless it is "float32", they are rounded too, where the fused kernels run. Else
        :meth:`change` rounds them.
        """
        linear = [layer for layer in self.feature_decoder if isinstance(layer, nn.Linear)]
        feature = linear[-1]
        heads = [[layer for layer in head if isinstance(layer, nn.Linear)] for head in (self.d_density, self.d_xyz)]
        first = torch.cat([head[0].weight for head in heads])
        head_bias = torch.cat([head[0].bias for head in heads]) + first @ feature.bias
        out = torch.block_diag(*[head[1].weight for head in heads])
        out_bias = torch.cat([head[1].bias for head in heads])
        hidden = [(layer.weight, layer.bias) for layer in linear[1:-1]]
        decoder = PairDecoder(hidden, first @ feature.weight, head_bias, out, out_bias)
        if precision == "float32" or not decoder.fuses:
            return decoder
        from gaussianem_core.kernels.pair_decoder_triton import rounded_weights

        weights, biases = [weight for weight, _ in hidden], [bias for _, bias in hidden]
        return decoder._replace(rounded=rounded_weights(weights, biases, decoder.head_weight, head_bias, out))

    def decode(
        self, z: torch.Tensor, embedding: torch.Tensor, precision: str = "float32"
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Change of raw density (B, N) and of position (B, N, 3; world units) for latents (B, zdim), embedding (N, E).

        ``precision``: see :meth:`change`.
        """
        return split_change(self.change(self.prepare(z, embedding), precision))

    def prepare(self, z: torch.Tensor, embedding: torch.Tensor) -> Prepared:  # (B, zdim), (N, E)
        """What :meth:`change` takes."""
        of_z, of_gaussian, bias = self.first_layer()
        linear = nn.functional.linear
        return Prepared(linear(z, of_z, bias), linear(embedding, of_gaussian), self.pair_decoder())

    def change(self, prepared: Prepared, precision: str) -> torch.Tensor:  # -> (B, N, 4)
        """Change of raw density, then of x, y, z (world units), of every Gaussian at every latent.

        ``precision``: "auto" takes bfloat16 operands with float32 sums where the processor has them (fused kernels on
        CUDA), "bfloat16" or "float32".
        """
        of_z, of_gaussian, w = prepared
        weights, biases = [weight for weight, _ in w.hidden], [bias for _, bias in w.hidden]
        heads = (w.head_weight, w.head_bias, w.out_weight, w.out_bias)
        if precision == "float32" or (precision == "auto" and not fast_bfloat16(of_z.device)):
            return decode_pairs(of_z, of_gaussian, weights, biases, *heads, fused=False)
        if w.fuses:
            return decode_pairs(of_z, of_gaussian, weights, biases, *heads, fused=True, rounded=w.rounded)
        low = [tensor.bfloat16() for tensor in (of_z, of_gaussian, *weights, *biases, *heads)]
        count = len(weights)
        hidden, rest = (low[2 : 2 + count], low[2 + count : 2 + 2 * count]), low[2 + 2 * count :]
        return decode_pairs(low[0], low[1], *hidden, *rest, fused=False).float()

    def deform(
        self,
        gaussians: Gaussians,
        prepared: Prepared,
        movable: torch.Tensor | None = None,
        precision: str = "float32",
        gauge: Gauge | None = None,
        centre: bool = False,
    ) -> Deformed:
        """The Gaussians at B latents.

        Parameters
        ----------
        gaussians : the N consensus Gaussians. prepared : of :meth:`prepare`, for the latents and their embedding.
        movable : (N,) bool, None for all; the others stay as in the consensus.
        precision : see :meth:`change`.
        gauge : removes rigid motion and a common factor of the densities.
        centre : whether there is one latent more, the centre of the latent space.
        """
        return deform_gaussians(gaussians, self.change(prepared, precision), movable, gauge, centre)


def encoder_fuses(features: torch.Tensor, layers: list[nn.Linear]) -> bool:  # (N, 5)
    """Whether the Gaussian encoder's fused kernels can run: CUDA with TF32 (or Triton's interpreter), float32, hidden
    layers of a width in FUSED_WIDTHS, and an embedding of a power of two from 16 to 128."""
    width, dim = layers[-1].in_features, layers[-1].out_features
    sizes = len(layers) > 2 and width in FUSED_WIDTHS and dim in (16, 32, 64, 128)
    return sizes and features.dtype == torch.float32 and triton_runs(features.device)


def fast_bfloat16(device: torch.device) -> bool:
    """Whether bfloat16 products are faster than float32 ones: on CUDA, and on CPUs with instructions for them."""
    return device.type == "cuda" or bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())


def build_network(configuration: Configuration) -> Network:
    """A randomly initialised network of the configuration's sizes."""
    return Network(configuration.box, **configuration.network)


def load_network(configuration: Configuration, state: dict[str, torch.Tensor]) -> Network:
    """The network with the parameters ``state`` of a checkpoint, for evaluation.

    Raises InputError naming the first parameter that is missing or whose shape does not fit the configuration.
    """
    network = build_network(configuration)
    own = network.state_dict()
    for name, tensor in own.items():
        if name not in state:
            raise InputError(
                "model_weight",
                "must hold every parameter of the configuration's network",
                f"no {name}",
                "Use the cfg.json the model was trained with.",
            )
        if state[name].shape != tensor.shape:
            raise InputError(
                "model_weight",
                f"{name} must have shape {tuple(tensor.shape)} by the configuration",
                tuple(state[name].shape),
                "Use the cfg.json the model was trained with.",
            )
    network.load_state_dict({name: state[name] for name in own})
    return network.eval()
