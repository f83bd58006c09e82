"""nanoGPT's training step written anew, to stand beside ours in `bench/gpu.py`: what a plain, well-kept script reaches.

After https://github.com/karpathy/nanoGPT (MIT licence): GPT-2 with `scaled_dot_product_attention`, tied embeddings,
biases, no dropout; matrix products in bfloat16 under autocast, AdamW fused, the norm of the gradient clipped at 1,
batches from a memory map through pinned memory. One thing is as in ours: GELU by its tanh form.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional


@dataclass(frozen=True)
class Shape:
    """Of the network and of its batches; GPT-2 124M's by default."""

    layers: int = 12
    width: int = 768
    heads: int = 12
    vocabulary: int = 50304
    context: int = 1024
    micro_batch: int = 12
    grad_accum: int = 20


class Block(nn.Module):
    """Attention and MLP, each behind a LayerNorm."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        d = shape.width
        self.heads = shape.heads
        self.ln_1, self.ln_2 = nn.LayerNorm(d), nn.LayerNorm(d)
        self.c_attn, self.attn_proj = nn.Linear(d, 3 * d), nn.Linear(d, d)
        self.c_fc, self.mlp_proj = nn.Linear(d, 4 * d), nn.Linear(4 * d, d)

    def forward(self, x: Tensor) -> Tensor:
        """``x[batch, context, width]`` → the same shape."""
        b, t, d = x.shape
        q, k, v = (
            part.view(b, t, self.heads, d // self.heads).transpose(1, 2)
            for part in self.c_attn(self.ln_1(x)).split(d, dim=2)
        )
        y = functional.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.attn_proj(y.transpose(1, 2).contiguous().view(b, t, d))
        return x + self.mlp_proj(functional.gelu(self.c_fc(self.ln_2(x)), approximate="tanh"))


class GPT(nn.Module):
    """The network; its forward pass gives the loss."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.wte = nn.Embedding(shape.vocabulary, shape.width)
        self.wpe = nn.Embedding(shape.context, shape.width)
        self.blocks = nn.ModuleList(Block(shape) for _ in range(shape.layers))
        self.ln_f = nn.LayerNorm(shape.width)
        self.lm_head = nn.Linear(shape.width, shape.vocabulary, bias=False)
        self.lm_head.weight = self.wte.weight
        for name, parameter in self.named_parameters():
            if parameter.ndim == 2:
                nn.init.normal_(parameter, std=0.02 / (2 * shape.layers) ** 0.5 if "_proj" in name else 0.02)
            elif name.endswith("bias"):
                nn.init.zeros_(parameter)

    def forward(self, tokens: Tensor, targets: Tensor) -> Tensor:
        """Mean cross-entropy of ``targets[batch, context]`` after ``tokens[batch, context]``."""
        x = self.wte(tokens) + self.wpe(torch.arange(tokens.shape[1], device=tokens.device))
        for block in self.blocks:
            x = block(x)
        logits = self.lm_head(self.ln_f(x))
        return functional.cross_entropy(logits.view(-1, logits.size(-1)), targets.view(-1))


class Nano:
    """The training: `step` takes one step of ``grad_accum`` micro-batches."""

    def __init__(self, shape: Shape, device: str, dtype: str, compiled: bool, data: Any) -> None:
        torch.manual_seed(1337)
        torch.backends.cuda.matmul.allow_tf32 = True
        torch.backends.cudnn.allow_tf32 = True
        self.shape, self.data, self.device = shape, data, torch.device(device)
        self.precision = torch.autocast(self.device.type, torch.bfloat16, enabled=dtype == "bfloat16")
        self.model = GPT(shape).to(self.device)
        decayed = [p for p in self.model.parameters() if p.ndim >= 2]
        others = [p for p in self.model.parameters() if p.ndim < 2]
        groups = [{"params": decayed, "weight_decay": 0.1}, {"params": others, "weight_decay": 0.0}]
        self.optimizer = torch.optim.AdamW(groups, lr=6e-4, betas=(0.9, 0.95), fused=True)
        self.loss: Any = torch.compile(self.model) if compiled else self.model
        self.random = np.random.default_rng(0)
        self.next = self.batch()

    def batch(self) -> tuple[Tensor, Tensor]:
        """Random stretches of the data and the tokens behind them."""
        length = self.shape.context
        starts = self.random.integers(0, len(self.data) - length - 1, self.shape.micro_batch)
        rows = torch.from_numpy(np.stack([self.data[start : start + length + 1] for start in starts]).astype(np.int64))
        if self.device.type == "cuda":
            rows = rows.pin_memory().to(self.device, non_blocking=True)
        return rows[:, :-1].contiguous(), rows[:, 1:].contiguous()

    def step(self) -> None:
        """One step; the next batch is fetched while the device works."""
        for _ in range(self.shape.grad_accum):
            with self.precision:
                loss = self.loss(*self.next) / self.shape.grad_accum
            self.next = self.batch()
            loss.backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
