"""The view that compares: which mistake explains a file, files that lie, files of two programs."""

import base64
import json
import zlib
from urllib.parse import urlencode

import numpy as np
import pytest
import torch
from safetensors.torch import save, save_file

from rope_core import resolve, rotate
from rope_core.presets import built_in
from tests.conftest import ROOT

I18N = ROOT / "service" / "page" / "static" / "i18n"
WORDS = {name: json.loads((I18N / f"{name}.json").read_text()) for name in ("en", "zh")}

BEFORE = torch.randn(1, 48, 2, 128, generator=torch.Generator().manual_seed(1))
POSITIONS = torch.cat((torch.arange(40), 2 ** torch.arange(6, 14)))[None]
FREQUENCIES = resolve("llama-3.1-8b").rope.inv_freq.tolist()
WRONG = rotate(BEFORE, rope={"inv_freq": FREQUENCIES, "layout": "interleaved"}, positions=POSITIONS)
RIGHT = rotate(BEFORE, rope="llama-3.1-8b", positions=POSITIONS)

EVIDENCE = ".evidence input"
MARKUP = "<img src=x onerror=document.title='broken'>"


def header(entries, data=b""):
    text = json.dumps(entries).encode()
    return len(text).to_bytes(8, "little") + text + data


def upload(name, content):
    return {"name": name, "mimeType": "application/octet-stream", "buffer": content}


@pytest.mark.parametrize("language", ["en", "zh"])
def test_interleaved_by_mistake_is_named_in_two_clicks(open_view, axe, language):
    """A model and one file; the file has other names, of which the reader says what they are."""
    words = WORDS[language]
    page = open_view("compare", fragment={"a": "llama-3.1-8b"}, language=language, width=390)
    content = save({"before": BEFORE, "after": WRONG, "positions": POSITIONS})
    page.set_input_files(EVIDENCE, upload("q.safetensors", content))
    page.wait_for_selector(".remedies")
    name = words["mistake.layout_swapped"].format(layout="interleaved")
    assert page.text_content("h1") == words["diagnose.explained"].format(names=name)
    assert page.locator(".explanations h3 code").first.text_content() == "layout_swapped"
    assert page.locator(".explanations li").first.locator("dt").all_text_contents() == [
        *("Hugging Face", "vLLM", "llama.cpp", "MLX")
    ]
    if language == "en":
        axe(page)
    content = save({"q": BEFORE, "q_rotated": RIGHT, "pos": POSITIONS, "other": BEFORE + 1})
    page.set_input_files(EVIDENCE, upload("names.safetensors", content))
    page.wait_for_selector(".names")
    chosen = page.locator(".names select").evaluate_all("(all) => all.map((e) => e.value)")
    assert chosen == ["q", "q_rotated", "pos"]
    page.locator(".names button").click()
    page.wait_for_function(
        "(text) => document.querySelector('h1').textContent === text", arg=words["diagnose.agrees"]
    )


def test_the_next_probe_is_shown(open_view):
    page = open_view("compare", fragment={"a": "llama-3.1-8b"})
    one = BEFORE[:, :1].contiguous()
    page.set_input_files(
        EVIDENCE, upload("one.safetensors", save({"before": one, "after": one.clone()}))
    )
    page.wait_for_selector(".probe")
    assert "send positions 1 and 4096" in page.text_content(".probe")
    assert page.text_content("h1") == WORDS["en"]["diagnose.agrees.weak"]


LIES = {
    "short": b"abc",
    "header_length": (10**15).to_bytes(8, "little") + b"{}",
    "header_json": (2).to_bytes(8, "little") + b"[]",
    "shape": header({MARKUP: {"dtype": "F32", "shape": [-1], "data_offsets": [0, 4]}}, bytes(4)),
    "dtype": header({MARKUP: {"dtype": MARKUP, "shape": [1], "data_offsets": [0, 4]}}, bytes(4)),
    "bytes": header({"x": {"dtype": "F32", "shape": [2**40], "data_offsets": [0, 4]}}, bytes(4)),
    "offsets": header({"x": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}}, bytes(4)),
    "gap": header({"x": {"dtype": "F32", "shape": [1], "data_offsets": [4, 8]}}, bytes(8)),
    "trailing": header({"x": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}, bytes(8)),
}


def test_files_that_lie_are_refused_with_a_sentence(open_view):
    """Nothing is sent, and markup in names is text."""
    page = open_view("compare", fragment={"a": "llama-3.1-8b"})
    for code, content in LIES.items():
        page.set_input_files(EVIDENCE, upload(f"{code}.safetensors", content))
        page.wait_for_function(
            "(name) => document.querySelector('.mistake').textContent.includes(name)",
            arg=f"{code}.safetensors",
        )
        start = WORDS["en"][f"safetensors.{code}"].partition("{")[0]
        page.wait_for_selector(f".mistake .problem:has-text('{start.strip()}')")
    names = {MARKUP: torch.zeros(3)}
    page.set_input_files(EVIDENCE, upload(f"{MARKUP}.safetensors", save(names)))
    page.wait_for_selector(".mistake .problem:has-text('onerror')")
    assert page.locator("main img").count() == 0
    assert "broken" not in page.title()
    assert not any(url.endswith("/v1/diagnose") for url in open_view.requests)


def test_files_dropped_anywhere_find_their_place(open_view):
    """A config.json and a file of tensors at once; then one that is too large."""
    page = open_view("compare")
    config = built_in()["llama-3.1-8b"].config
    content = save({"before": BEFORE, "after": WRONG, "positions": POSITIONS})
    script = """([files, at]) => {
        const data = new DataTransfer();
        for (const [name, content] of files) {
            data.items.add(new File([new Uint8Array(content)], name));
        }
        const options = { dataTransfer: data, bubbles: true, cancelable: true };
        document.querySelector(at).dispatchEvent(new DragEvent("drop", options));
    }"""
    files = [["my-model.json", [*json.dumps(config).encode()]], ["q.safetensors", [*content]]]
    page.evaluate(script, [files, "h1"])
    page.wait_for_selector(".remedies")
    assert page.text_content(".source.a .name") == "my-model"
    assert page.locator(".explanations h3 code").first.text_content() == "layout_swapped"
    page.evaluate(script, [[["large.json", 9 * 2**20]], ".source.b"])
    page.wait_for_selector(".source.b .problem:has-text('9 MiB')")


def test_files_of_two_programs_are_compared_by_name(open_view, tmp_path):
    page = open_view("compare")
    order = torch.randperm(128, generator=torch.Generator().manual_seed(2))
    cases = {
        "compare.equal": RIGHT,
        "compare.rounding": RIGHT.bfloat16(),
        "compare.permuted": RIGHT[..., order].contiguous(),
        "compare.tensors.different.from": WRONG,
    }
    for side in "ab":
        page.click(f".source.{side} .seg button:nth-child(4)")
    save_file({"after": RIGHT, "positions": POSITIONS}, tmp_path / "a.safetensors")
    page.set_input_files(".source.a input", tmp_path / "a.safetensors")
    for key, after in cases.items():
        content = save({"after": after, "positions": POSITIONS})
        page.set_input_files(".source.b input", upload(f"{key}.safetensors", content))
        words = WORDS["en"][key].format(position=1, name="after")
        page.wait_for_function(
            "(text) => document.querySelector('h1').textContent === text", arg=words
        )
        if key == "compare.permuted":
            page.wait_for_selector("#permutation")
            assert page.text_content("pre code") == f"p = {order.tolist()}"


DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}


def test_numbers_of_each_dtype_are_read_as_they_are(open_view):
    page = open_view("compare")
    random = np.random.default_rng(1)
    tensors = {}
    for name, dtype in DTYPES.items():
        bits = random.integers(0, 2 if name == "BOOL" else 256, 512, dtype=np.uint8)
        tensors[name] = torch.from_numpy(bits).view(dtype)
    script = """async ([bytes, names]) => {
        const m = await import("./safetensors.js");
        const file = await m.readHeader(new Uint8Array(bytes).buffer);
        const renamed = Object.fromEntries(names.map((name) => [name + "2", name]));
        const again = await m.readHeader(m.pick(file, renamed));
        const text = async (of, name) => {
            const tensor = of.tensors.find((each) => each.name === name);
            return Array.from(await m.readNumbers(of, tensor), String);
        };
        const found = {};
        for (const name of names) {
            found[name] = [await text(file, name), await text(again, name + "2")];
        }
        return found;
    }"""
    found = page.evaluate(script, [[*save(tensors)], [*DTYPES]])
    for name, tensor in tensors.items():
        is_whole = not tensor.dtype.is_floating_point
        expected = (tensor.long() if is_whole else tensor.double()).tolist()
        for texts in found[name]:
            numbers = [
                *map(
                    int if is_whole else float, (each.replace("Infinity", "inf") for each in texts)
                )
            ]
            np.testing.assert_array_equal(np.array(numbers), np.array(expected))


LYING = [
    {"a_text": base64.urlsafe_b64encode(zlib.compress(bytes(2**26), 9)[2:-4]).decode()},  # 64 MiB
    "a_text=%00%ff&b_text=!!!&a_layer=1e9&pair=-5&at=NaN",
    {"a_text": "[" * 300, "b_text": '{"__proto__": {"rope": 1}, "theta": 1e4}'},
    {"a_text": '{"model_type": "llama", "rope_theta": NaN, "hidden_size": 64}'},
    "a=" + "x" * 2**20,
]


def test_addresses_that_lie_leave_the_view_whole(open_view):
    page = open_view("compare", fragment=LYING[0])
    for fragment in LYING[1:]:
        text = fragment if isinstance(fragment, str) else urlencode(fragment)
        page.evaluate("(hash) => { location.hash = hash; }", text)
        page.wait_for_function(
            """async () => Object.values((await import("./compare-sources.js")).sources)
                .every(({ value }) => !value.busy)"""
        )
        assert page.locator("h1").count() == 1
    for side in "ab":
        page.locator(f".source.{side} .seg button").nth(0).click()
        page.locator(f".source.{side} input").fill("llama-3-8b")
        page.locator(f".source.{side} input").press("Tab")
    page.wait_for_selector("[aria-busy=false] #selftest")
    assert page.text_content("h1") == WORDS["en"]["compare.equal"]
    open_view.forgive("status of 4(13|22|31)")
