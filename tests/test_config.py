# SPDX-License-Identifier: Apache-2.0
"""The config: what it refuses and how it says so, and that every config file builds."""

import ast
import contextlib
import dataclasses
import itertools
import json
import math
import pathlib
import types

import jax
import pytest
from smallest_config import SMALLEST, build, merged

from cots_jax.arguments import load_config
from cots_jax.chips import CHIPS
from cots_jax.config import build_config
from cots_jax.data.specs import parse_sources
from cots_jax.errors import UserError
from cots_jax.models.two_stream import SIZES
from cots_jax.schedule import Clockwork, parse_schedule
from cots_jax.schema import Config
from cots_jax.switches import Negatives, Precision, Switch, Task, Teacher
from cots_jax.train.assemble import DVAES
from cots_jax.train.cots import read_schedules

CONFIGS = pathlib.Path(__file__).resolve().parents[1] / "configs"


class TestReading:
    def test_defaults(self):
        config = build()
        assert config.task is Task.COTS
        assert config.method.negatives is Negatives.QUEUE
        assert config.method.queue_length == 12_800

    def test_enums_by_their_values_and_numbers_where_they_fit(self):
        config = build(
            method__alignment__teacher="momentum",
            method__momentum=0.5,
            optimizer__clip=1,
            augmentation__crop=[0.5, 1],
        )
        assert config.method.alignment.teacher is Teacher.MOMENTUM
        assert config.method.momentum == "0.5"
        assert config.optimizer.clip == 1.0
        assert isinstance(config.optimizer.clip, float)
        assert config.augmentation.crop == (0.5, 1.0)

    def test_written_out_and_read_again_it_is_the_same(self):
        config = build(
            hardware__precision="bfloat16",
            augmentation__crop=[0.5, 1],
            method__negatives="queue_and_batch",
        )
        text = json.dumps(config.to_dict())
        assert build_config(json.loads(text)) == config
        assert config.hardware.precision is Precision.BFLOAT16

    def test_it_cannot_be_changed(self):
        with pytest.raises(dataclasses.FrozenInstanceError):
            build().batch = 3


class TestErrors:
    @pytest.mark.parametrize(
        ("changes", "message"),
        [
            ({"bach": 3}, r"unknown config key config\.bach; the nearest keys: batch"),
            ({"method__tempreture": 1.0}, r"config\.method\.tempreture.*temperature"),
            ({"data__zzzz": 1}, r"config\.data\.zzzz; known keys: .*text_length"),
            ({"batch": "many"}, r"config\.batch = 'many' should be of type int"),
            ({"batch": 16.0}, r"config\.batch = 16\.0 should be of type int"),
            ({"batch": True}, r"config\.batch = True should be of type int"),
            ({"optimizer__clip": "x"}, r"config\.optimizer\.clip = 'x' should be of type float"),
            ({"optimizer": 3}, r"config\.optimizer = 3 should hold keys of its own"),
            ({"augmentation__crop": 0.5}, r"config\.augmentation\.crop = 0\.5"),
            ({"augmentation__crop": "0.5"}, r"config\.augmentation\.crop = '0\.5'"),
            ({"augmentation__crop": ["a", 1]}, r"config\.augmentation\.crop = 'a'"),
            ({"augmentation__crop": [0.5]}, r"config\.augmentation\.crop .*two"),
            ({"task": "clip"}, r"config\.task = 'clip'; choose one of cots, dvae"),
            ({"method__negatives": "all"}, r"choose one of queue, queue_and_batch"),
            ({"batch": 0}, r"config\.batch = 0 must lie between 1 and"),
            ({"seed": -1}, r"config\.seed = -1 must lie between 0"),
            ({"method__temperature": 0.0}, r"config\.method\.temperature = 0\.0 must lie"),
            ({"method__reference_batch": 0}, r"config\.method\.reference_batch = 0 must lie"),
            ({"method__filter__momentum": 1.0}, r"config\.method\.filter\.momentum = 1\.0 must"),
            ({"method__masked__text_ratio": 1.0}, r"config\.method\.masked\.text_ratio = 1\.0"),
            ({"method__masked__image_every": 17}, r"must lie between 1 and 16"),
            ({"data__cache": "foo"}, r"config\.data\.cache = 'foo'; choose one of memory, none"),
            ({"data__threads": -1}, r"config\.data\.threads = -1 must lie between 1"),
            ({"data__frames": 0}, r"config\.data\.frames = 0 must lie between 1"),
            ({"data__frames": 8}, r"codes of one picture; set config\.method\.weight_mvm=0"),
            (
                {"data__frames": 8, "method__weight_mvm": "0 @ 0%, 1 @ 50%"},
                r"config\.data\.frames = 8 and config\.method\.weight_mvm = '0 @ 0%, 1 @ 50%'",
            ),
            ({"data__frames": 2, "task": "dvae"}, r"single pictures; set it to 1"),
            ({"image_mean": [0.5, 0.5, 0.5]}, r"config\.image_std = \(\) should hold three"),
            ({"image_mean": [0.5], "image_std": [0.5]}, r"should hold three numbers each"),
            ({"image_mean": [0, 1, 2], "image_std": [1, 1, 1]}, r"lie between 0 and 1"),
            ({"image_mean": [0, 1, 0], "image_std": [1, 1, 0]}, r"and no std be 0"),
            ({"frame_mean": "max"}, r"config\.frame_mean = 'max'; choose one of joint, cls"),
            ({"optimizer__clip": -1.0}, r"config\.optimizer\.clip = -1\.0 must lie between 0"),
            ({"optimizer__clip": math.nan}, r"config\.optimizer\.clip = nan must lie"),
            ({"optimizer__weight_decay": -0.1}, r"weight_decay = -0\.1 must lie between 0"),
            ({"optimizer__b2": 1.0}, r"config\.optimizer\.b2 = 1\.0 must lie"),
            ({"method__alignment__temperature": -0.1}, r"alignment\.temperature = -0\.1 must"),
            ({"method__filter__kappa": 0.0}, r"config\.method\.filter\.kappa = 0\.0 must lie"),
            ({"method__soft_targets": "0 @ 0%, 2 @ 50%"}, r"config\.method\.soft_targets .* 2\.0"),
            ({"init_from__run": "runs/x"}, r"write config\.data\.tokenizer=init_from"),
            ({"data__tokenizer": "init_from"}, r"and config\.init_from\.run = ''.*both are set"),
            (
                {"init_from__run": "r", "init_from__text": "t", "data__tokenizer": "init_from"},
                r"leave config\.init_from\.image and \.text empty",
            ),
            ({"method__contrast": "clip"}, r"choose one of momentum, batch, sigmoid"),
            ({"hardware__fsdp": 0}, r"config\.hardware\.fsdp = 0 must lie between 1"),
            ({"hardware__accumulate": 0}, r"config\.hardware\.accumulate = 0 must lie"),
        ],
    )
    def test_it_names_the_key_and_the_remedy(self, changes, message):
        with pytest.raises(UserError, match=message):
            build(**changes)

    @pytest.mark.parametrize(
        ("changes", "message"),
        [
            ({"optimizer__learning_rate": "1e-3 @ 8%, cosine -1e-5 @ 100%"}, "learning_rate"),
            ({"method__momentum": "0.9 @ 10%, 1.5 @ 90%"}, "momentum .* 0.0 and 1.0, and 1.5"),
            ({"method__momentum": -0.1}, "momentum .* and -0.1 does not"),
            ({"method__weight_mlm": "-1"}, "weight_mlm"),
            ({"method__weight_task": "0 @ 10%, -0.5 @ 40%"}, "weight_task .* and -0.5 does not"),
            ({"dvae__gumbel_temperature": "1 @ 0%, 0 @ 100%"}, "gumbel_temperature"),
            ({"dvae__kl_weight": "-1"}, "kl_weight"),
        ],
    )
    def test_every_value_of_a_schedule_is_looked_at(self, changes, message):
        with pytest.raises(UserError, match=message):
            build(**changes)

    def test_something_must_be_trained(self):
        names = ("instance", "mvm", "mlm", "task")
        nothing = {f"method__weight_{name}": "0" for name in names}
        with pytest.raises(UserError, match=r"config\.method\.weight_task are all 0"):
            build(**nothing)
        build(**nothing, task="dvae")
        build(**nothing | {"method__weight_mlm": "0 @ 10%, 0.1 @ 20%"})

    def test_what_is_missing(self):
        given = {key: value for key, value in SMALLEST.items() if key != "batch"}
        with pytest.raises(UserError, match="config lacks batch"):
            build_config(given)
        with pytest.raises(UserError, match=r"config\.data lacks eval"):
            build_config(merged(given, data={"train": "a#b"}, batch=1))


class TestArithmetic:
    def test_a_batch_that_does_not_divide_names_its_neighbours(self):
        message = r"batch 1000 does not divide over data=8 x fsdp=4 .*\(32\): use 992 or 1024"
        with pytest.raises(UserError, match=message):
            build(batch=1000, hardware__chips=32, hardware__fsdp=4)

    def test_a_batch_below_the_product_names_the_product(self):
        with pytest.raises(UserError, match=r"use 64$"):
            build(hardware__chips=64)

    def test_pieces_and_masked_rows_count_too(self):
        with pytest.raises(UserError, match=r"accumulate=2 x every 3-th row.*\(12\): use 12 or 24"):
            build(hardware__chips=2, hardware__accumulate=2, method__masked__text_every=3)

    def test_each_piece_holds_whole_strides_of_both_masked_passes(self):
        """Every 2nd picture and every 3rd text: pieces of 8 rows would start amid a stride."""
        masked = {"method__masked__image_every": 2, "method__masked__text_every": 3}
        with pytest.raises(UserError, match=r"\(12\)"):
            build(batch=18, hardware__accumulate=2, **masked)
        build(batch=24, hardware__accumulate=2, **masked)

    def test_a_shared_forward_that_hides_words_of_every_text_leaves_none_to_drop(self):
        flags = {"method__masked__forward": "shared", "augmentation__word_dropout": 0.1}
        with pytest.raises(UserError, match=r"text_every to 2 or more, or take forward=separate"):
            build(**flags)
        build(method__masked__text_every=2, **flags)

    def test_the_dvae_has_no_masked_rows(self):
        build(task="dvae", batch=5, method__masked__text_every=2)

    def test_chips_that_do_not_make_a_mesh(self):
        with pytest.raises(UserError, match="12 chips do not divide over fsdp=8 x tensor=1"):
            build(batch=96, hardware__chips=12, hardware__fsdp=8)


def literal(file, wanted):
    """A constant of a config file, which may be made of those above it."""
    known = {}
    for node in ast.parse(file.read_text()).body:
        if isinstance(node, ast.Assign):
            with contextlib.suppress(NameError):
                known[node.targets[0].id] = evaluated(node.value, **known)
    return known[wanted]


def evaluated(node, **known):
    return eval(compile(ast.Expression(node), "config", "eval"), {"__builtins__": {}}, known)


def variants():
    """FILE:NAMES of every file in configs/, read from its own call of split_names, or its KINDS."""
    methods = literal(CONFIGS / "methods.py", "METHODS")
    for file in sorted(CONFIGS.glob("*.py")):
        for node in ast.walk(ast.parse(file.read_text())):
            name = getattr(getattr(node, "func", None), "id", None)
            if isinstance(node, ast.Call) and name == "split_names" and file.stem != "hardware":
                names = ast.literal_eval(node.args[1])
                yield from (f"{file}:{variant}" for variant in ("", *names))
            elif isinstance(node, ast.AnnAssign) and getattr(node.target, "id", "") == "KINDS":
                kinds = [("", *names) for names in evaluated(node.value, METHODS=methods).values()]
                chosen = (",".join(filter(None, names)) for names in itertools.product(*kinds))
                yield from (f"{file}:{names}" for names in chosen)


class TestFiles:
    def test_every_file_is_found(self):
        files = {file.name for file in CONFIGS.glob("*.py")} - {"hardware.py", "methods.py"}
        assert {pathlib.Path(spec.partition(":")[0]).name for spec in variants()} == files
        assert len(list(variants())) > len(files)

    @pytest.mark.parametrize("spec", list(variants()), ids=lambda spec: pathlib.Path(spec).name)
    def test_it_builds_and_what_it_says_can_be_read(self, spec):
        config = build_config(load_config(spec).to_dict())
        assert isinstance(config, Config)
        assert config.model in (SIZES if config.task is Task.COTS else DVAES)
        for key in ("train", "eval", "test"):
            if text := getattr(config.data, key):
                assert all("#" in part for part in text.split(","))
        assert "cots_jax.prepare" in config.data.prepare
        clock = Clockwork(config.batch, 1_000_000)
        clock = dataclasses.replace(clock, total_steps=clock.steps(config.duration, "duration"))
        assert clock.total_steps > 0
        for key in ("checkpoint_every", "evaluate_every", "log_every", "diagnose_every"):
            assert clock.steps(getattr(config, key), key) > 0
        if config.task is Task.COTS:
            assert "instance" in read_schedules(config, clock).active
        else:
            for key in ("gumbel_temperature", "kl_weight", "usage_weight"):
                parse_schedule(getattr(config.dvae, key), clock, key)

    def test_every_variant_has_a_name_of_its_own(self):
        names = [build_config(load_config(spec).to_dict()).name for spec in variants()]
        # What is not named is the first of its kind.
        spelled = [spec for spec in variants() if spec.endswith(":") or "pretrain" in spec]
        assert len(set(names)) >= len(names) - len(spelled) + 6

    def test_pretraining_has_two_sets_of_data_and_several_methods(self):
        def built(names):
            return build_config(load_config(f"{CONFIGS}/pretrain.py:{names}").to_dict())

        assert built("") == built("cc4m") == built("cots") == built("cots,cc4m")
        assert len(built("cc14m").data.train.split(",")) == 5
        assert "data/cc12m#train" in built("brivl,cc14m").data.train
        ours, brivl, albef = (built(name).method for name in ("cots", "brivl", "albef"))
        assert (ours.queue_length, ours.temperature, ours.negatives) == (12_800, 0.05, "queue")
        assert (brivl.queue_length, brivl.temperature, brivl.negatives) == (9600, 0.07, "queue")
        assert (albef.queue_length, albef.momentum) == (65_536, "0.995")
        assert (albef.negatives, albef.temperature_rule) == ("queue_and_batch", "learned")
        for method in (brivl, albef):
            assert {method.weight_mvm, method.weight_mlm, method.weight_task} == {"0"}
            assert method.filter.state is Switch.OFF
        assert albef.soft_targets == "0 @ 0%, 0.4 @ 1 epoch"
        assert brivl.soft_targets == ours.soft_targets == "0"
        assert {ours.weight_instance, ours.weight_mvm, ours.weight_mlm, ours.weight_task} == {"1"}

    def test_parts_switch_levels_off(self):
        levels = ("instance", "mvm", "mlm", "task")
        wanted = {
            "full": levels,
            "contrastive": levels[:1],
            "mvlm": levels[:3],
            "kl": ("instance", "task"),
            "clip": levels[:1],
            "siglip": levels[:1],
        }
        for name, on in wanted.items():
            suffix = "" if name == "full" else f":{name}"
            config = build_config(load_config(f"{CONFIGS}/demo.py{suffix}").to_dict())
            off = {level for level in levels if getattr(config.method, f"weight_{level}") == "0"}
            assert off == set(levels) - set(on)
            assert bool(config.image_tokenizer) == ("mvm" in on)

    def test_in_batch_baselines_have_nothing_of_momentum(self):
        contrasts = {"clip": "batch", "siglip": "sigmoid", "albef": "momentum", "": "momentum"}
        for name, contrast in contrasts.items():
            config = build_config(load_config(f"{CONFIGS}/flickr8k.py:{name}").to_dict())
            assert config.method.contrast == contrast
            assert (config.method.queue_length == 0) == (contrast != "momentum")

    @pytest.mark.parametrize("names", ["cc4m,cc14m", "brivl,albef"])
    def test_two_of_a_kind_are_refused(self, names):
        with pytest.raises(UserError, match=r"name one (data|method) only"):
            load_config(f"{CONFIGS}/pretrain.py:{names}")

    @pytest.mark.parametrize(
        ("names", "row", "chips"), [("h100-8", "h100-8", 8), ("v5e-256", "v5e-256", 256)]
    )
    def test_a_hardware_row_sets_the_chips(self, names, row, chips):
        config = build_config(load_config(f"{CONFIGS}/pretrain.py:{names}").to_dict())
        assert (config.hardware.row, config.hardware.chips) == (row, chips)
        assert config.hardware.precision is Precision.BFLOAT16

    def test_a_variant_and_a_row_in_either_order(self):
        one, other = (
            build_config(load_config(f"{CONFIGS}/demo.py:{names}").to_dict())
            for names in ("contrastive,h100-8", "h100-8,contrastive")
        )
        assert one == other
        assert one.name == "demo-contrastive"
        assert one.hardware.row == "h100-8"

    def test_every_row_builds(self):
        rows = load_rows()
        for row in rows:
            config = build_config(load_config(f"{CONFIGS}/tiny.py:{row}-1").to_dict())
            assert config.hardware.row == f"{row}-1"

    @pytest.mark.parametrize(
        ("kind", "row"),
        [
            ("NVIDIA H100 80GB HBM3", "h100"),
            ("NVIDIA H100 PCIe", "hopper"),
            ("NVIDIA H100 NVL", "hopper"),
            ("NVIDIA GH200 480GB", "hopper"),
            ("NVIDIA H200", "h200"),
        ],
    )
    def test_a_card_is_the_row_whose_peak_it_has(self, monkeypatch, kind, row):
        device = types.SimpleNamespace(device_kind=kind, platform="gpu")
        monkeypatch.setattr(jax, "devices", lambda: [device])
        config = build_config(load_config(f"{CONFIGS}/pretrain.py").to_dict())
        assert config.hardware.row == row
        assert (row in CHIPS) == (row != "hopper")

    def test_every_row_leaves_the_recipe_negatives_of_four_batches(self):
        for row in load_rows():
            config = build_config(load_config(f"{CONFIGS}/pretrain.py:{row}-8").to_dict())
            enough = config.method.queue_length >= 4 * config.batch
            assert enough or config.method.negatives is Negatives.QUEUE_AND_BATCH

    @pytest.mark.parametrize(
        ("names", "message"),
        [
            ("contrastive,clip", "'contrastive' and 'clip': name one method only"),
            ("h100-8,smoke,cpu", "'h100-8' and 'cpu': name one hardware row only"),
        ],
    )
    def test_a_second_variant_or_row_is_refused(self, names, message):
        with pytest.raises(UserError, match=message):
            load_config(f"{CONFIGS}/demo.py:{names}")

    @pytest.mark.parametrize("spec", list(variants()), ids=lambda spec: pathlib.Path(spec).name)
    def test_an_image_tokenizer_is_named_with_what_trains_it(self, spec, monkeypatch):
        monkeypatch.chdir(CONFIGS.parent)
        config = build_config(load_config(spec).to_dict())
        if config.image_tokenizer:
            tokenizer = build_config(load_config(config.image_tokenizer_config).to_dict())
            assert tokenizer.task is Task.DVAE
            assert config.image_tokenizer == f"runs/{tokenizer.name}"
            assert config.data.train == tokenizer.data.train

    @pytest.mark.parametrize("names", ["contrastiv", "h10", "h100-x", "h100-0", "demo"])
    def test_an_unknown_variant_or_row_names_the_nearest(self, names):
        with pytest.raises(UserError, match=f"unknown variant or hardware row '{names}'"):
            load_config(f"{CONFIGS}/demo.py:{names}")

    def test_the_nearest_are_near(self):
        with pytest.raises(UserError, match="contrastive"):
            load_config(f"{CONFIGS}/demo.py:contrastiv")
        with pytest.raises(UserError, match="v5e"):
            load_config(f"{CONFIGS}/demo.py:v5-256")


def load_rows():
    return literal(CONFIGS / "hardware.py", "ROWS")


def test_a_source_without_a_split_is_refused():
    with pytest.raises(UserError, match=r"config\.data\.train"):
        parse_sources("data/emoji", "config.data.train", "prepare it")
