# SPDX-License-Identifier: Apache-2.0
"""Fine-tuning on a retrieval set, from a training folder of ours.

    python -m cots_jax.main --config=configs/finetune.py:coco --workdir=runs/coco
    python -m cots_jax.main --config=configs/finetune.py:own --workdir=runs/mine \\
        --config.init_from.run=runs/flickr8k --config.model=photo-32 --config.batch=64
    python -m cots_jax.main --config=configs/finetune.py:msrvtt --workdir=runs/msrvtt

`coco`, `flickr30k`, `msrvtt` or `own` behind the colon, and a hardware row. Towers, masked heads
and words are those of `init_from.run`; position embeddings are resized where the model has another
resolution. The towers that are best on `data.eval` are kept beside the last ones, and `evaluate`
takes them, so that `data.test` is looked at once.

`msrvtt` is text-to-video retrieval: each clip is 8 frames, whose features are averaged (R). It
trains on the 8,503 clips of the 9k list that the annotation does not hold for validation and
chooses on the other 497; the whole 9k (R) is
`--config.data.train=data/msrvtt#train,data/msrvtt#val --config.data.eval= --config.keep_best=off`.
`evaluate --protocol=msrvtt_1k_a` says the number under that name.

No run of these has been made at their sizes, so there is no expected result. Every value is an own
choice (O) but for what is marked.
"""

from hardware import chosen, hardware
from ml_collections import ConfigDict

KINDS: dict[str, tuple[str, ...]] = {"data": ("coco", "flickr30k", "msrvtt", "own")}

# Karpathy's splits (R): `restval` belongs to train.
JSON = {"coco": "dataset_coco.json", "flickr30k": "dataset_flickr30k.json"}
# The 9k list to train on, and the 1k-A test clips (R).
MSRVTT = (
    "msrvtt --annotation=train_val_annotation.zip,test_videodatainfo.json.zip --videos=videos "
    "--list=MSRVTT_train.9k.csv,MSRVTT_JSFUSION_test.csv"
)


def get_config(names: str = "") -> ConfigDict:
    """`own` where no set is named."""
    found = chosen(names, KINDS)
    data = found["data"] or "own"
    config = ConfigDict()
    config.name = f"finetune-{data}"
    config.seed = 0
    config.model = "b16-384"
    config.duration = "10 epochs"  # of (image, caption) pairs
    config.batch = 512  # pairs
    config.checkpoint_every = "1 epoch"
    config.evaluate_every = "1 epoch"
    config.log_every = "1%"
    config.diagnose_every = "10%"
    config.keep_best = "on"
    config.image_tokenizer = ""  # the token level needs codes; it is off here
    config.init_from = ConfigDict({"run": "runs/pretrain-cc4m"})
    table = "pairs --captions=captions.csv --images=pictures"
    if data in JSON:
        table = f"karpathy --captions={JSON[data]} --images=pictures --longest_side=512"
    config.data = ConfigDict(
        {
            "train": f"data/{data}#train",
            "eval": f"data/{data}#val",
            "test": f"data/{data}#test" if data in JSON else "",
            "prepare": f"python -m cots_jax.prepare {table} --out=data/{data}",
            "text_length": 80 if data in JSON else 32,  # tokens
            "tokenizer": "init_from",  # of the run that this one starts from
            "threads": 16,
        }
    )
    config.augmentation = ConfigDict({"crop": (0.5, 1.0), "flip_probability": 0.5})
    config.method = ConfigDict(
        {
            "queue_length": 4096,  # pairs; the towers move fast, old keys mislead
            "negatives": "queue_and_batch",
            "same_group": "mask",  # another caption of the same image is no negative
            "temperature": 0.05,  # R, low confidence
            "momentum": "0.99",
            "reference_batch": 512,  # pairs that the momentum is given for
            "weight_instance": "1",
            "weight_mvm": "0",
            "weight_mlm": "0",
            "weight_task": "0.5",
            "alignment": {"teacher": "momentum"},
            "filter": {"state": "off"},  # captions by hand
        }
    )
    config.optimizer = ConfigDict(
        {
            "learning_rate": "0 @ 0%, 1e-5 @ 10%, cosine 0 @ 100%",
            "weight_decay": 0.05,
            "layer_decay": 0.85,  # the lower blocks move less
        }
    )
    config.hardware = hardware(found["hardware row"])
    if data == "msrvtt":
        _set_videos(config)
    return config


def _set_videos(config: ConfigDict) -> None:
    config.model = "b16-224"  # MSR-VTT's clips are 320 x 240 pixels
    config.duration = "5 epochs"  # of 170,060 (clip, sentence) pairs
    config.batch = 128  # pairs, of 8 pictures each
    config.data.frames = 8
    config.data.test = "data/msrvtt#test_1k_a"
    config.data.prepare = f"python -m cots_jax.prepare {MSRVTT} --out=data/msrvtt"
    config.frame_mean = "joint"
    config.method.reference_batch = 128  # pairs that the momentum is given for
