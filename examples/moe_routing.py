"""Route tokens to the top k of many experts: weights, a map and the number of tokens of each expert."""

from __future__ import annotations

import torch
from torch import Tensor

import torchext

TOKENS, EXPERTS, TOP_K = 8192, 128, 8


def route(logits: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The weights ``(tokens, experts)``, the same as a bool map, and the number of tokens of each expert."""
    weights, chosen = logits.softmax(-1).topk(TOP_K)
    weights = weights / weights.sum(-1, keepdim=True)
    gates = torchext.multi_hot(chosen, EXPERTS, weights=weights)
    routes = torchext.multi_hot(chosen, EXPERTS, dtype=torch.bool)
    return gates, routes, torchext.class_counts(chosen, EXPERTS)


def route_by_scatter(logits: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The same in plain PyTorch."""
    weights, chosen = logits.softmax(-1).topk(TOP_K)
    weights = weights / weights.sum(-1, keepdim=True)
    gates = torch.zeros_like(logits).scatter(-1, chosen, weights)
    routes = torch.zeros_like(logits, dtype=torch.bool).scatter(-1, chosen, True)
    counts = torch.histc(chosen.float(), bins=EXPERTS, min=0, max=EXPERTS - 1).long()
    return gates, routes, counts


def load_balancing_loss(probabilities: Tensor, counts: Tensor) -> Tensor:
    """The loss of the Switch Transformer (Fedus et al., 2021): 1 if all experts get the same number of tokens."""
    share = counts / counts.sum()
    return EXPERTS * (share * probabilities.mean(0)).sum()


def main() -> None:
    logits = torch.randn(TOKENS, EXPERTS, generator=torch.Generator().manual_seed(0)).requires_grad_()
    gates, routes, counts = route(logits)
    expected = route_by_scatter(logits)
    torch.testing.assert_close((gates, routes, counts), expected)

    target = torch.linspace(0, 1, EXPERTS)
    gradients = [torch.autograd.grad(((g @ target) ** 2).sum(), logits)[0] for g in (gates, expected[0])]
    torch.testing.assert_close(*gradients)

    loss = load_balancing_loss(logits.softmax(-1), counts)
    print(f"{TOKENS} tokens to {TOP_K} of {EXPERTS} experts each: {counts.min()} to {counts.max()} tokens per expert")
    print(f"load balancing loss {loss.item():.3f}; weights, map, counts and gradients equal those by scatter and histc")


if __name__ == "__main__":
    main()
