"""Ask a real OpenAI-compatible server, `transformers serve`, with a tiny vision model of random weights. Prints one JSON line.

    python -m venv serve && serve/bin/pip install torch torchvision 'transformers[serving]' pillow
    python benchmarks/express_interop.py serve/bin/python ANNOTATIONS CLIPS

The model says nothing sensible, so every object must end as a failure row about its answer, and none as one about the protocol.
"""

import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path

MAKE_MODEL = """
import sys, string
from tokenizers import Tokenizer, models, pre_tokenizers, decoders
from transformers import (CLIPImageProcessor, CLIPVisionConfig, LlamaConfig, LlavaConfig, LlavaForConditionalGeneration,
                          LlavaProcessor, PreTrainedTokenizerFast)
special = ["<pad>", "<s>", "</s>", "<image>"]
letters = special + sorted(pre_tokenizers.ByteLevel.alphabet())
raw = Tokenizer(models.BPE(vocab={t: i for i, t in enumerate(letters)}, merges=[]))
raw.pre_tokenizer, raw.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
tokenizer = PreTrainedTokenizerFast(tokenizer_object=raw, pad_token="<pad>", bos_token="<s>", eos_token="</s>",
                                    additional_special_tokens=["<image>"])
template = ("{% for m in messages %}{{ m['role'] }}: {% if m['content'] is string %}{{ m['content'] }}{% else %}{% for p in m['content'] %}"
            "{% if p['type'] == 'text' %}{{ p['text'] }}{% else %}<image>{% endif %}{% endfor %}{% endif %}\\n{% endfor %}assistant: ")
pictures = CLIPImageProcessor(size={"shortest_edge": 28}, crop_size={"height": 28, "width": 28})
processor = LlavaProcessor(pictures, tokenizer, patch_size=14, vision_feature_select_strategy="default", num_additional_image_tokens=1,
                           chat_template=template, image_token="<image>")
config = LlavaConfig(
    vision_config=CLIPVisionConfig(hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=2, image_size=28,
                                   patch_size=14, projection_dim=32),
    text_config=LlamaConfig(vocab_size=len(letters), hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=2,
                            num_key_value_heads=2, max_position_embeddings=16384, pad_token_id=0, bos_token_id=1, eos_token_id=2),
    image_token_index=3)
LlavaForConditionalGeneration(config).save_pretrained(sys.argv[1])
processor.save_pretrained(sys.argv[1])
"""


def main() -> None:
    python, annotations, clips = sys.argv[1:]
    with tempfile.TemporaryDirectory() as folder:
        model = f"{folder}/model"
        subprocess.run([python, "-c", MAKE_MODEL, model], check=True)
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        command = [str(Path(python).parent / "transformers"), "serve", "--host", "127.0.0.1", "--port", str(port), "--device", "cpu"]
        with open(f"{folder}/log", "w") as log:
            server = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT, env=os.environ | {"HF_HUB_OFFLINE": "1"})
        try:
            wait_for(f"http://127.0.0.1:{port}/health")
            shutil.copytree(annotations, f"{folder}/work", ignore=shutil.ignore_patterns("expressions"))
            settings = ["timeout_s=300", "max_tokens=64", "in_flight=2", "max_tiles=1", "num_frames=2"]
            given = [part for setting in settings for part in ("--set", setting)]
            asked = ["--annotations", f"{folder}/work", "--videos", clips, "--base-url", f"http://127.0.0.1:{port}/v1", "--llm", model]
            environment = {name: value for name, value in os.environ.items() if name != "OPENAI_API_KEY"}
            done = subprocess.run(
                [sys.executable, "-m", "egoray.cli", "express", *asked, *given, "--limit", "2", "--json"],
                env=environment, capture_output=True, text=True,
            )  # fmt: skip
            from egoray.core.storage import Folder
            from egoray.core.workfolder import read_failures

            ends = [f"{f.error}: {f.message}" for f in read_failures(Folder(f"{folder}/work/expressions"))]
            summary = (
                json.loads(done.stdout)
                if done.stdout.strip()
                else {"stderr": done.stderr[-800:], "log": Path(f"{folder}/log").read_text()[-800:]}
            )
            shown = {
                name: summary.get(name)
                for name in ("expected", "done", "failed", "requests", "answers", "prompt_tokens", "completion_tokens", "stderr", "log")
            }
            print(json.dumps({"exit": done.returncode, **shown, "failures": ends}))
        finally:
            server.terminate()
            server.wait()


def wait_for(url: str) -> None:
    for _ in range(240):
        try:
            urllib.request.urlopen(url, timeout=1).close()
            return
        except OSError:
            time.sleep(0.5)
    raise SystemExit(f"{url} does not answer")


if __name__ == "__main__":
    main()
