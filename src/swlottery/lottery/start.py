"""The network at step 0: pretrained, or from scratch under one of several initialisations."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from swlottery.config import TrainSettings
from swlottery.data.evaluation import start_tokens
from swlottery.data.sources import is_on_hub
from swlottery.data.tokenizer import SMALLEST, VOCABULARY, builtin_tokenizer
from swlottery.errors import BadInput
from swlottery.models import load as models
from swlottery.models import tokenizers
from swlottery.models.architectures import Roles
from swlottery.models.lineage import weights_sha256
from swlottery.models.loaded import Loaded, context_of, embedding_rows
from swlottery.models.names import FROM_SCRATCH
from swlottery.runtime import files, sums

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

LONGEST = 1024
"""Tokens of a training sequence where --context does not say otherwise: GPT-2's."""


@dataclass
class Network:
    """A model that can be trained, and where it came from.

    lineage: the hash of its stored weights, before any cast. context: tokens of a training sequence; longest: the most
    that the model takes. prefix: the tokens that every sequence begins with.
    """

    model: Any
    tokenizer: Any
    roles: Roles
    name: str
    slug: str
    note: str
    lineage: str
    context: int
    longest: int
    prefix: list[int]

    @property
    def parameters(self) -> dict[str, nn.Parameter]:
        """Every parameter by name; tied ones once."""
        return dict(self.model.named_parameters())

    @property
    def embedding_rows(self) -> int:
        """How many tokens the embedding has a row for."""
        return embedding_rows(self.model)

    @property
    def device(self) -> torch.device:
        """Where the model is."""
        device: torch.device = next(self.model.parameters()).device
        return device

    def set_weights(self, tensors: Mapping[str, Tensor]) -> None:
        """Set every parameter to the tensor of its name, in place."""
        import torch

        with torch.no_grad():
            for name, parameter in self.parameters.items():
                parameter.copy_(tensors[name])

    def save(self, target: Path, card: str = "") -> None:
        """A folder that ``from_pretrained`` loads, there whole or not at all. card: its README.md, if any."""

        def fill(unfinished: Path) -> None:
            self.model.save_pretrained(unfinished)
            self.tokenizer.save_pretrained(unfinished)
            if card:
                (unfinished / "README.md").write_text(card, encoding="utf-8")

        files.write_folder(target, fill)


def network(settings: TrainSettings) -> Network:
    """θ_0, in float32, in evaluation mode: a model in that mode has no dropout, and gradients flow all the same."""
    if settings.start == "scratch":
        _check_scratch(settings)
        changes = {"vocab_size": settings.vocabulary} if settings.vocabulary else {}
        tokenizer = scratch_tokenizer(settings)
        loaded = models.from_config(settings.model, settings.seed, "float32", settings.device, tokenizer, **changes)
        initialise(loaded.model, Roles(loaded.model), settings.init, settings.seed)
        if settings.vocabulary and len(loaded.tokenizer) > settings.vocabulary:
            has = f"the tokenizer has {len(loaded.tokenizer)} tokens"
            raise BadInput(f"--vocabulary {settings.vocabulary}: {has}; give as many or more, or leave it away")
    else:
        loaded = models.load(settings.model, settings.revision, "float32", settings.device)
    fuse_activation(loaded.model)
    roles = Roles(loaded.model)
    _check_roles(loaded.model, loaded.name, roles)
    loaded.model.requires_grad_(True)
    if settings.freeze_biases:
        freeze_biases(loaded.model, roles)
    lineage = loaded.weights_sha256 if settings.start == "pretrained" else weights_sha256(loaded.model)
    context = training_context(settings, loaded.context)
    prefix = first_tokens(loaded, context) if settings.first_token else []
    made_of = (loaded.model, loaded.tokenizer, roles, loaded.name, loaded.slug, loaded.note, lineage)
    return Network(*made_of, context, loaded.context, prefix)


def _check_scratch(settings: TrainSettings) -> None:
    if settings.model not in models.SHAPES:
        raise BadInput(
            f"--start scratch builds {', '.join(models.SHAPES)} from their configs; for --model "
            f"{settings.model} use --start pretrained"
        )


def _check_roles(model: nn.Module, name: str, roles: Roles) -> None:
    """Raise `BadInput` for a network that can be examined, but whose matrices have no roles to prune them by."""
    if any(len(down.parts) > 1 for down in roles.downs):
        raise BadInput(
            f"{name} has experts that every token enters beside others: train prunes one kind; find takes it"
        )
    if roles.in_table:
        return
    for path, parameter in model.named_parameters():
        module = path.removesuffix(".weight").rpartition(".")[2]
        if roles.role_of(path, parameter) == "router" and module not in ("gate", "router"):
            raise BadInput(
                f"{name} has no row in swlottery/models/table.py, and {path} no usual name: train does not know what "
                "it is; find takes the model"
            )


def training_context(settings: TrainSettings, longest: int) -> int:
    """Tokens of a training sequence. Raises `BadInput` for more than the model takes."""
    context = settings.context or min(LONGEST, longest)
    if not 2 <= context <= longest:
        raise BadInput(f"--context {context}: the model takes 2 to {longest} tokens")
    return context


def tokenizer_and_context(settings: TrainSettings) -> tuple[Any, int]:
    """The tokenizer and the context of `network`, without its weights: nothing of their size is read or made."""
    if settings.start == "scratch":
        _check_scratch(settings)
        longest = context_of(models.shape(settings.model))
        return scratch_tokenizer(settings), training_context(settings, longest)
    tokenizer, longest = models.load_tokenizer(settings.model, settings.revision)
    return tokenizer, training_context(settings, longest)


def first_tokens(loaded: Loaded, context: int) -> list[int]:
    """What the tokenizer puts before a text; where that is nothing, it is made to put its BOS there.

    The tokenizer is stored with the network, so that whoever loads both begins a text in the same way. Raises
    `BadInput` for a tokenizer without BOS, and for a context that has no room for text.
    """
    tokenizer = loaded.tokenizer
    if not (found := start_tokens(tokenizer)) and tokenizer.bos_token_id is not None:
        tokenizer.add_bos_token = True
        found = start_tokens(tokenizer)
    if not found or max(found) >= embedding_rows(loaded.model):
        raise BadInput(f"--first-token: the tokenizer of {loaded.name} has no BOS that can begin a text")
    if len(found) >= context:
        raise BadInput(f"--context {context}: a sequence begins with {len(found)} tokens before its text: give more")
    return found


def scratch_tokenizer(settings: TrainSettings) -> Any:
    """The tokenizer from scratch; the built-in one has no more tokens than ``--vocabulary`` gives rows."""
    if (name := tokenizer_name(settings)) != "builtin":
        return load_tokenizer(name)
    if settings.vocabulary and settings.vocabulary < SMALLEST:
        raise BadInput(f"--vocabulary {settings.vocabulary}: the built-in tokenizer needs {SMALLEST} tokens: give more")
    return builtin_tokenizer(min(settings.vocabulary or VOCABULARY, VOCABULARY))


def tokenizer_name(settings: TrainSettings) -> str:
    """The tokenizer from scratch. A data set on the hub needs a network, and then GPT-2's own can be had as well."""
    if settings.tokenizer != "auto":
        return settings.tokenizer
    return "openai-community/gpt2" if is_on_hub(settings.data) and settings.model not in FROM_SCRATCH else "builtin"


def load_tokenizer(name: str) -> Any:
    """A tokenizer by hub id or folder."""
    folder = Path(name).expanduser()
    is_local = folder.is_dir()
    if is_local:
        sums.check(folder)
    try:
        return tokenizers.load_alone(folder if is_local else name)
    except BadInput as error:
        raise BadInput(f"cannot load the tokenizer '{name}' ({error}): give a folder, a hub id or builtin") from None


def fuse_activation(model: Any) -> None:
    """Compute GPT-2's GELU in one kernel instead of eight operations, and say so in the config: the same function."""
    from transformers.activations import ACT2FN, NewGELUActivation

    for module in list(model.modules()):
        for name, child in module.named_children():
            if isinstance(child, NewGELUActivation):
                setattr(module, name, ACT2FN["gelu_pytorch_tanh"])
    for name in ("activation_function", "hidden_act"):
        if getattr(model.config, name, None) == "gelu_new":
            setattr(model.config, name, "gelu_pytorch_tanh")


def freeze_biases(model: nn.Module, roles: Roles) -> None:
    """Every bias is zero and stays so, LayerNorm's too: transformers' GPT-2 cannot be built without them."""
    for name, parameter in model.named_parameters():
        if roles.role_of(name, parameter) == "bias":
            parameter.requires_grad_(False).zero_()


def initialise(model: nn.Module, roles: Roles, init: str, seed: int) -> None:
    """Initialise the matrices of the blocks anew; embeddings keep GPT-2's N(0, 0.02²), gains stay 1, biases 0.

    ``gpt2``: as transformers does: N(0, 0.02²), into GPT-2's residual stream over √(2·layers) (Radford et al. 2019).
    ``xavier``: uniform by Glorot & Bengio (2010). ``kaiming``: normal by He et al. (2015), gain √2, by fan-in.
    ``xavier-zero-gains``: ``xavier``, and the norms' gains at 0.
    """
    import torch
    from torch.nn import init as inits

    if init == "gpt2":
        return
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            role = roles.role_of(name, parameter)
            if role == "norm" and init == "xavier-zero-gains":
                parameter.zero_()
            if role not in ("attention", "mlp-in", "mlp-out"):
                continue
            matrix = parameter.t() if roles.row.in_out else parameter  # torch takes a weight as [out, in]
            fresh = torch.empty(matrix.shape)
            if init.startswith("xavier"):
                inits.xavier_uniform_(fresh, generator=generator)
            else:
                inits.kaiming_normal_(fresh, nonlinearity="relu", generator=generator)
            matrix.copy_(fresh)
