"""Options of runs and their defaults: keywords, YAML keys and words of the command line."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    PositiveInt,
    ValidationInfo,
    field_validator,
)

from anipot import units
from anipot.elements import parse_elements
from anipot.registry import names

#: Updates that a training makes unless the number of epochs is given, and the least and most
#: epochs.
DEFAULT_UPDATES = 28_000
DEFAULT_EPOCHS = (20, 500)


#: Options of a training that say where and how it runs, and not what comes out of it.
MACHINE_OPTIONS = {"device", "threads", "aev_cache", "checkpoint_minutes", "cuda_graph"}


_ACTIVATIONS = ("relu", "celu", "gelu", "silu", "tanh", "sigmoid", "gaussian")

#: Names of what users can register; see docs/extending.md.
Activation = Annotated[str, AfterValidator(names("activation", "anipot.activations", _ACTIVATIONS))]
Network = Annotated[str, AfterValidator(names("network", "anipot.networks", ("mlp",)))]
Optimizer = Annotated[
    str, AfterValidator(names("optimizer", "anipot.optimizers", ("adamw", "adam", "sgd")))
]
LossTerm = Annotated[str, AfterValidator(names("loss term", "anipot.loss_terms", ()))]


class Settings(BaseModel):
    """Base: unknown keys are errors, and nothing is changed once it is checked."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


def _elements(value: Any) -> Any:
    """Join a list such as ``[H, C, N, O]`` to "HCNO"; other types are validated by pydantic."""
    if isinstance(value, str) or (
        isinstance(value, Iterable) and all(isinstance(v, str) for v in value)
    ):
        return "".join(parse_elements(value))
    return value


class ReadSettings(Settings):
    """Options of reading data files; by default everything is found out from the file.

    They are keywords of ``load_dataset``, options of a run, and options of the commands that read
    data.
    """

    energy_key: str | None = Field(None, description="name of the energies in the file")
    coordinates_key: str | None = Field(None, description="name of the coordinates in the file")
    species_key: str | None = Field(None, description="name of the species in the file")
    forces_key: str | None = Field(None, description="name of the forces in the file")
    energy_unit: str | None = Field(
        None, description=f"unit of energy in the file: {', '.join(units.ENERGY_UNITS)}"
    )
    length_unit: str | None = Field(
        None, description=f"unit of length in the file: {', '.join(units.LENGTH_UNITS)}"
    )
    stress_key: str | None = Field(None, description="name of the stress in the file")
    virial_key: str | None = Field(
        None, description="name of the virial in the file, to be divided by the volume"
    )
    energy_from: Literal["comment"] | None = Field(
        None, description="other place of energies: comment, the comment lines of XYZ files"
    )
    force_unit: str | None = Field(
        None, description="unit of forces, such as hartree/bohr, if not that of energy over length"
    )
    stress_unit: str | None = Field(
        None, description="unit of stress: GPa, kbar, bar, or an energy over a volume"
    )
    forces_sign: Literal["forces", "gradient"] | None = Field(
        None, description="meaning of the forces in the file: forces, or gradient to negate them"
    )
    stress_sign: Literal["ase", "negative"] | None = Field(
        None,
        description="sign of stress: ase (dE/dstrain over volume), or negative to negate stress "
        "and virial",
    )
    group_key: str | None = Field(None, description="info key that names the molecule of a frame")
    high_energy: bool = Field(False, description="also read coordinatesHE and energiesHE")

    @field_validator("energy_unit")
    @classmethod
    def _energy_unit(cls, value: str | None) -> str | None:
        return None if value is None else units.energy_unit(value)

    @field_validator("length_unit")
    @classmethod
    def _length_unit(cls, value: str | None) -> str | None:
        if value is not None:
            units.length_to_angstrom(value)
        return value

    @field_validator("force_unit")
    @classmethod
    def _force_unit(cls, value: str | None) -> str | None:
        if value is not None:
            units.force_to_hartree_per_angstrom(value)
        return value

    @field_validator("stress_unit")
    @classmethod
    def _stress_unit(cls, value: str | None) -> str | None:
        if value is not None:
            units.stress_to_hartree_per_cubic_angstrom(value)
        return value


class DataFiles(Settings):
    """Which files; a class of its own so that they come first where options are listed."""

    files: list[str] = Field(default_factory=list, description="data files; none: the bundled data")

    @field_validator("files", mode="before")
    @classmethod
    def _files(cls, value: Any) -> Any:
        """One file is a list of one."""
        return [value] if isinstance(value, str) else value


class DataSettings(ReadSettings, DataFiles):
    """Which conformers, and how they are divided."""

    elements: str | None = Field(None, description="keep only conformers of these elements")
    heavy_atoms: int | None = Field(None, ge=0, description="largest number of heavy atoms")
    max_energy: float | None = Field(
        None,
        gt=0,
        description="largest energy above the molecule's lowest, kcal/mol",
    )
    per_molecule: int | None = Field(None, ge=1, description="most conformers of a molecule")
    split: Literal["conformer", "molecule", "formula"] = Field(
        "conformer",
        description="unit of the split: what stays together",
    )
    train: float = Field(0.8, gt=0, lt=1, description="fraction of the training part")
    validation: float = Field(0.1, gt=0, lt=1, description="fraction of the validation part")
    test: float = Field(0.1, ge=0, lt=1, description="fraction of the test part")
    folds: int | None = Field(
        None, ge=2, description="number of folds: test on one, train and validate on the others"
    )
    fold: int = Field(1, ge=1, description="fold to test on: 1 to folds")
    seed: int = Field(0, ge=0, lt=2**63, description="seed of the division")
    validation_molecules: str | None = Field(
        None, description="file with the names of the validation molecules, one per line"
    )
    test_molecules: str | None = Field(
        None, description="file with the names of the test molecules, one per line"
    )

    _parse_elements = field_validator("elements", mode="before")(_elements)

    @field_validator("fold")
    @classmethod
    def _fold(cls, value: int, info: ValidationInfo) -> int:
        folds = info.data.get("folds")
        if folds is None and value != 1:
            raise ValueError("needs folds, the number of folds that it is one of")
        if folds is not None and value > folds:
            raise ValueError(f"there are {folds} folds")
        return value


#: Options of a model that are keywords of ``AEVSettings.cover``, which owns their defaults.
COVER_OPTIONS = (
    "radial_cutoff",
    "angular_cutoff",
    "radial_terms",
    "angular_terms",
    "angle_terms",
    "zeta",
    "radial_start",
)


class ModelSettings(Settings):
    """The potential."""

    elements: str | None = Field(None, description="elements in order; none: those of the data")
    aev: Literal["ani1x", "ani2x", "cover"] = Field(
        "ani1x", description="AEV constants: ani1x, ani2x, or cover: from the next seven options"
    )
    radial_cutoff: float | None = Field(
        None, gt=0, description="with cover: radial cutoff, angstrom; none: 5.2"
    )
    angular_cutoff: float | None = Field(
        None, gt=0, description="with cover: angular cutoff, angstrom; none: 3.5"
    )
    radial_terms: int | None = Field(
        None, ge=1, description="with cover: shells of distance; none: 16"
    )
    angular_terms: int | None = Field(
        None, ge=1, description="with cover: shells of the angular part; none: 4"
    )
    angle_terms: int | None = Field(None, ge=1, description="with cover: angles; none: 8")
    zeta: float | None = Field(
        None, ge=1, description="with cover: sharpness of the angles; none: angles^2 / 2"
    )
    radial_start: float | None = Field(
        None, gt=0, description="with cover: innermost shell, angstrom; none: by covalent radii"
    )
    hidden: list[PositiveInt] | dict[str, list[PositiveInt]] | None = Field(
        None, description="hidden widths, for all elements or by element; none: ANI-1x's"
    )
    network: Network = Field("mlp", description="mlp, or a network that you registered")
    activation: Activation = Field(
        "celu", description="relu, celu, gelu, silu, tanh, sigmoid, gaussian, or a registered one"
    )
    dropout: float = Field(0.0, ge=0, lt=1, description="dropout in the hidden layers")
    output_activation: Activation | None = Field(
        None, description="activation of the output, if any"
    )
    output_dropout: bool = Field(False, description="also dropout before the output")
    dtype: Literal["float32", "float64"] = Field("float32", description="precision of the networks")
    output_unit: str = Field("kcal/mol", description="unit of the network output")
    repulsion: Literal["zbl"] | None = Field(
        None, description="repulsion of nuclei closer than any bond: zbl, or none"
    )
    engine: str = Field("auto", description="AEV engine: auto, reference, torchani ...")

    _parse_elements = field_validator("elements", mode="before")(_elements)

    @field_validator(*COVER_OPTIONS)
    @classmethod
    def _of_cover(cls, value: Any, info: ValidationInfo) -> Any:
        name = info.data.get("aev", "cover")
        if value is not None and name != "cover":
            raise ValueError(f"is for aev=cover; {name} has constants of its own")
        return value

    @property
    def cover(self) -> dict[str, Any]:
        """The options of ``AEVSettings.cover`` that are given."""
        given = {name: getattr(self, name) for name in COVER_OPTIONS}
        return {name: value for name, value in given.items() if value is not None}

    @field_validator("hidden", mode="before")
    @classmethod
    def _widths(cls, value: Any) -> Any:
        """One width is a list of one."""
        return [value] if isinstance(value, int) and not isinstance(value, bool) else value

    @field_validator("output_unit")
    @classmethod
    def _unit(cls, value: str) -> str:
        return units.energy_unit(value)


class TrainingSettings(Settings):
    """Options of a training: the keywords of ``ANITrainer``."""

    batch_size: int = Field(64, ge=1, description="conformers per batch")
    epochs: int | None = Field(
        None, ge=1, description="passes over the training data; none: about 28,000 updates"
    )
    updates: int | None = Field(
        None, ge=1, description="largest number of updates; none: epochs decide"
    )
    learning_rate: float = Field(2e-3, gt=0, description="highest learning rate")
    optimizer: Optimizer = Field(
        "adamw",
        description="adamw: l2 is decoupled weight decay; adam, sgd: l2 is added to the gradient; "
        "or one that you registered",
    )
    l2: float = Field(0.0, ge=0, description="strength of the L2 penalty or weight decay")
    schedule: Literal["one-cycle", "cosine", "linear", "constant"] = Field(
        "one-cycle", description="schedule of the learning rate; all but constant end at 0"
    )
    warmup: float = Field(
        0.1, ge=0, lt=1, description="fraction of the updates during which the learning rate rises"
    )
    ema: float = Field(
        0.0, ge=0, lt=1, description="decay of the moving average of the weights (0: off)"
    )
    clip: float | None = Field(None, gt=0, description="largest norm of the gradient")
    loss: Literal["mse", "mse/sqrt(n)", "huber"] = Field(
        "mse", description="squared error, squared error over sqrt(atoms), or Huber loss"
    )
    huber_delta: float = Field(
        1.0, gt=0, description="error at which the Huber loss becomes linear, target unit"
    )
    per_atom: bool = Field(False, description="divide energy errors by the number of atoms")
    energy_weight: float = Field(1.0, ge=0, description="weight of the energy loss")
    force_weight: float = Field(0.0, ge=0, description="weight of the force loss")
    stress_weight: float = Field(
        0.0, ge=0, validate_default=True,
        description="weight of the loss of stress times volume per atom",
    )  # fmt: skip
    loss_terms: dict[LossTerm, float] = Field(
        default_factory=dict, description="weights of loss terms that you registered, by name"
    )
    target_unit: str = Field("kcal/mol", description="unit of the loss: kcal/mol, hartree, eV ...")
    patience: int | None = Field(
        None, ge=1, description="epochs without improvement before stopping; none: half of epochs"
    )
    self_energies: Literal["auto", "fit", "keep", "isolated"] | dict[str, float] = Field(
        "auto",
        description="fit to the training data; keep the model's; auto: keep if it has any; "
        "isolated: the energies of the single atoms in the data, which are then not trained on; or "
        "hartree by element, {H: -0.6, C: -38.1}",
    )
    normalize_aevs: bool = Field(
        False, description="normalize AEVs by their mean and spread in training"
    )
    freeze_layers: int = Field(
        0, ge=0, description="first layers of each network that are not trained"
    )
    seed: int = Field(0, ge=0, lt=2**63, description="seed of weights, order and dropout")
    precision: Literal["float32", "tf32"] = Field(
        "float32", description="precision of matrix products on GPUs in training; tf32 has 3 digits"
    )
    device: str = Field("auto", description="auto, cpu, cuda, cuda:1 ...")
    threads: int | None = Field(
        None, ge=1, description="CPU threads; none: as many as the size of the batches can use"
    )
    aev_cache: Literal["auto", "off", "ram", "device"] = Field(
        "auto", description="keep AEVs between epochs: auto does where they fit"
    )
    checkpoint_minutes: float = Field(
        5.0, gt=0, description="minutes between checkpoints within an epoch"
    )
    cuda_graph: bool = Field(
        False, description="on a GPU replay updates as a CUDA graph, where batches allow it"
    )

    @field_validator("target_unit")
    @classmethod
    def _unit(cls, value: str) -> str:
        return units.energy_unit(value)

    @field_validator("stress_weight")
    @classmethod
    def _some_weight(cls, value: float, info: ValidationInfo) -> float:
        if not value and not any(info.data.get(k, 1) for k in ("energy_weight", "force_weight")):
            raise ValueError("with energy_weight and force_weight it is 0: nothing to train on")
        return value

    def resolved(self, n_conformers: int) -> TrainingSettings:
        """These settings with ``epochs`` decided for a training set of that size.

        The number of updates decides how far a training comes, so small sets get more epochs:
        as many as make ``DEFAULT_UPDATES``, within ``DEFAULT_EPOCHS``, or as many as ``updates``
        need.
        """
        if self.epochs is not None:
            return self
        batches = -(-n_conformers // self.batch_size)
        if self.updates is not None:
            return self.model_copy(update={"epochs": -(-self.updates // max(batches, 1))})
        least, most = DEFAULT_EPOCHS
        epochs = min(max(round(DEFAULT_UPDATES / max(batches, 1)), least), most)
        return self.model_copy(update={"epochs": epochs})


class EnsembleSettings(Settings):
    """Options of an ensemble: its size, and how its members differ."""

    members: int = Field(
        1, ge=1, le=1000, description="potentials to train, with seeds seed, seed + 1, ..."
    )
    by_folds: bool = Field(
        False, description="each member validates on another fold of all that is not the test part"
    )
    workers: int = Field(1, ge=1, description="members trained side by side, one thread each")

    @field_validator("by_folds")
    @classmethod
    def _several(cls, value: bool, info: ValidationInfo) -> bool:
        if value and info.data.get("members") == 1:
            raise ValueError("needs members, two or more of them")
        return value


class RunSettings(Settings):
    """All options of ``anipot train``."""

    data: DataSettings = Field(default_factory=lambda: DataSettings())
    model: ModelSettings = Field(default_factory=lambda: ModelSettings())
    training: TrainingSettings = Field(default_factory=lambda: TrainingSettings())
    ensemble: EnsembleSettings = Field(default_factory=lambda: EnsembleSettings())
