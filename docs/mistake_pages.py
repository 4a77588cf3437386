"""Pages of the mistakes that `diagnose` knows: made from `rope_core.diagnosis.MISTAKES`."""

import json
import re
from collections.abc import Mapping
from pathlib import Path

from rope_core.diagnosis.mistake import Mistake
from rope_core.diagnosis.mistakes import MISTAKES

FOLDER = Path(__file__).parent / "mistakes"

DATA = Path(__file__).parents[1] / "service" / "page" / "static" / "mistakes.json"
"""The same texts for the view that compares."""

INDEX = """# Mistakes

Made from the library by `make docs`: each mistake is a function in `rope_core/diagnosis/mistakes/`,
and its docstring is its page. [Diagnose](../diagnose.md) finds these mistakes in your numbers;
[My port is wrong](../port.md) walks through a real case.

The last column names the evidence that can show the mistake.

| code | what the code does | evidence |
|---|---|---|
"""

REPOSITORIES = {
    name.split("/")[1]: name
    for name in (
        "Avarok-Cybersecurity/atlas",
        "Blaizzy/mlx-vlm",
        "Dao-AILab/flash-attention",
        "EleutherAI/gpt-neox",
        "InternLM/lmdeploy",
        "JIA-Lab-research/LongLoRA",
        "ML-GSAI/LLaDA",
        "ModelTC/LightLLM",
        "NVIDIA-NeMo/Megatron-Bridge",
        "NVIDIA/Megatron-LM",
        "NVIDIA/RULER",
        "NVIDIA/TensorRT-LLM",
        "NeuraLegion/shainet",
        "NovaSky-AI/SkyRL",
        "PrimeIntellect-ai/prime-rl",
        "QwenLM/Qwen3-VL",
        "Tongjilibo/bert4torch",
        "TransformerLensOrg/TransformerLens",
        "AI-Hypercomputer/maxtext",
        "antonellof/ferrox",
        "apple/axlearn",
        "aws-neuron/neuronx-distributed-inference",
        "deepspeedai/DeepSpeed",
        "ekzhang/jax-js",
        "elixir-nx/emlx",
        "facebookresearch/vjepa2",
        "flashinfer-ai/flashinfer",
        "ggml-org/llama.cpp",
        "gty111/gLLM",
        "huggingface/diffusers",
        "huggingface/optimum-habana",
        "huggingface/optimum-intel",
        "huggingface/transformers",
        "jd-opensource/xllm",
        "jundot/omlx",
        "karpathy/nanochat",
        "lablup/mlxcel",
        "lucidrains/rotary-embedding-torch",
        "microsoft/onnxruntime-genai",
        "mit-han-lab/streaming-llm",
        "ml-explore/mlx",
        "ml-explore/mlx-examples",
        "ml-explore/mlx-lm",
        "mlc-ai/mlc-llm",
        "modelscope/ms-swift",
        "ollama/ollama",
        "onnx/onnx",
        "onnxruntime/mobius",
        "pie-project/pie",
        "pytorch/executorch",
        "pytorch/pytorch",
        "rajveer43/VeloxQuant-MLX",
        "sbryngelson/ANEForge",
        "sgl-project/sgl-kernel-xpu",
        "sgl-project/sglang",
        "tenstorrent/tt-metal",
        "tloen/alpaca-lora",
        "trymirai/lalamo",
        "trymirai/uzu",
        "unslothai/unsloth",
        "vllm-project/vllm",
        "vllm-project/vllm-ascend",
        "vllm-project/vllm-metal",
        "warpfront/hipfire",
        "xiangking/ark-nlp",
    )
}
REPOSITORIES |= {
    "fla": "fla-org/flash-linear-attention",
    "labmlai": "labmlai/annotated_deep_learning_paper_implementations",
    "Liger": "linkedin/Liger-Kernel",
}
"""Repositories on GitHub by the name that the sources of mistakes have."""

THREADS = re.compile(r"(\S+) (#\d+(?:(?:, | and )#\d+)*)")
"""Threads of a repository, as in `vllm #3385, #4380 and #9679`."""

FRAMEWORKS = ("Hugging Face", "vLLM", "llama.cpp", "MLX")


def mistake_pages() -> Mapping[str, str]:
    """Return the text of each page of docs/mistakes/, by the name of its file."""
    pages = {f"{code}.md": mistake_page(mistake) for code, mistake in MISTAKES.items()}
    return {"README.md": INDEX + "".join(map(_row, MISTAKES.values())), **pages}


def write_mistake_pages() -> None:
    """Write all pages, and remove those of codes that no longer exist."""
    FOLDER.mkdir(exist_ok=True)
    pages = mistake_pages()
    for file in FOLDER.glob("*.md"):
        if file.name not in pages:
            file.unlink()
    for name, page in pages.items():
        (FOLDER / name).write_text(page)
    DATA.write_text(mistake_data())


def mistake_data() -> str:
    """Return the texts of all mistakes as JSON, for the page of the service.

    Of each code: what it is, how it looks, why it happens, the remedy in each framework, and the
    sources as texts and links in turn, `[text, address]`.
    """
    entries = {
        code: {
            "summary": mistake.summary,
            "looks": _sentence(mistake.parts["Looks like"]),
            "why": _sentence(mistake.parts["Why"]),
            "remedies": {name: _sentence(mistake.parts[name]) for name in FRAMEWORKS},
            "sources": _segments(_linked(mistake.parts["Source"])),
        }
        for code, mistake in MISTAKES.items()
    }
    return json.dumps(entries, ensure_ascii=False, indent=1) + "\n"


def _segments(text: str) -> list[list[str]]:
    """Return Markdown as texts, each with the address that it links to or ""."""
    parts = re.split(r"\[([^\]]+)\]\(([^)]+)\)", text)
    segments: list[list[str]] = []
    for index in range(0, len(parts), 3):
        segments += [[parts[index], ""]] if parts[index] else []
        segments += [parts[index + 1 : index + 3]] if index + 2 < len(parts) else []
    return segments


def mistake_page(mistake: Mistake) -> str:
    """Return the page of a mistake."""
    parts = mistake.parts
    remedies = "".join(f"- **{name}.** {_sentence(parts[name])}\n" for name in FRAMEWORKS)
    return f"""# `{mistake.code}`

{mistake.summary}

Evidence that can show it: {", ".join(mistake.evidence)}. `diagnose` says{_stand_ins(mistake.text)}:

> {mistake.text}

**Looks like.** {_sentence(parts["Looks like"])}

**Why it happens.** {_sentence(parts["Why"])}

**Remedy.** {mistake.remedy}

{remedies}
**Sources.** {_linked(parts["Source"])}

[All mistakes](README.md) · [Diagnose](../diagnose.md)
"""


def _row(mistake: Mistake) -> str:
    evidence = ", ".join(mistake.evidence)
    return f"| [`{mistake.code}`]({mistake.code}.md) | {mistake.summary} | {evidence} |\n"


def _stand_ins(text: str) -> str:
    """Return what braces in a text mean; "" if it has none."""
    return ", with numbers or names in place of the braces" if "{" in text else ""


def _linked(source: str) -> str:
    """Return a source with a link for each thread."""

    def link(found: re.Match[str]) -> str:
        address = f"https://github.com/{REPOSITORIES[found[1]]}/issues"
        return re.sub(r"#(\d+)", rf"[\g<0>]({address}/\1)", found[0])

    return THREADS.sub(link, source)


def _sentence(text: str) -> str:
    """Return the text of a part with a capital, unless it begins with code."""
    return text[:1].upper() + text[1:]
