# SPDX-License-Identifier: Apache-2.0
"""Methods that a config can be trained by instead of the full objective: its parts, and baselines.

The parts switch levels off; the baselines put another contrast in the place of the instance level
and train nothing else; `clip_kl` and `clip_full` are both: levels over CLIP's loss. R = reported
or remembered, O = own choice.
"""

from ml_collections import ConfigDict

PARTS = {
    "contrastive": ("mvm", "mlm", "task"),  # switched off: the instance level alone
    "mvlm": ("task",),  # instance and token level
    "kl": ("mvm", "mlm"),  # instance and task level
    "clip_kl": ("mvm", "mlm"),  # the task level over CLIP's loss; O
    "clip_full": (),  # all levels over CLIP's loss; O
}
BASELINES = ("brivl", "albef", "clip", "siglip")
METHODS = (*PARTS, *BASELINES)


def set_method(config: ConfigDict, name: str) -> None:
    """Makes the config that of a part or of a baseline; "" changes nothing."""
    if not name:
        return
    config.name = f"{config.name}-{name}"
    for level in PARTS.get(name, PARTS["contrastive"]):
        config.method[f"weight_{level}"] = "0"
    if name in BASELINES:
        _set_baseline(config, name)
    if name in ("clip_kl", "clip_full"):
        _set_baseline(config, "clip")
        if "alignment" not in config.method:
            config.method.alignment = ConfigDict()
        config.method.alignment.teacher = "stopped"  # the other row: there is no momentum tower
    if config.method.weight_mvm == "0":
        config.image_tokenizer = ""


def _set_baseline(config: ConfigDict, name: str) -> None:
    """The contrastive part of the method as published; batch and queue are the config's."""
    method = config.method
    if "filter" not in method:
        method.filter = ConfigDict()
    method.filter.state = "off"
    method.temperature_rule = "learned"  # R, but for brivl
    if name == "brivl":
        method.temperature_rule = "fixed"
        method.temperature = 0.07  # R
    if name == "albef":
        # Without its masked language modelling and its matching head, which cross the streams.
        method.negatives = "queue_and_batch"  # R
        method.temperature = 0.07  # at the start; R
        method.temperature_range = (0.001, 0.5)  # R
        method.soft_targets = "0 @ 0%, 0.4 @ 1 epoch"  # R
    if name in ("clip", "siglip"):
        method.queue_length = 0
    if name == "clip":
        method.contrast = "batch"
        method.temperature = 0.07  # at the start; R
        method.temperature_range = (0.01, 0.5)  # never below 0.01: R; the other end O
    if name == "siglip":
        method.contrast = "sigmoid"
        method.temperature = 0.1  # at the start; R
        method.temperature_range = (0.001, 1.0)  # O: SigLIP has none
        method.sigmoid_bias = -10.0  # R, for batches of thousands
