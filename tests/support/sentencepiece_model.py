"""A tokenizer that is `tokenizer.model` alone, read by the evaluate step: what its tokens of a text are called
in the file, as sentencepiece itself reads it.

Runs inside the environment of the evaluate step: `python tests/support/sentencepiece_model.py FOLDER`.
"""

import json
import sys
from pathlib import Path

import sentencepiece

from containers.evaluate.harness.confined_tokenizer import confined_tokenizer

TEXT = "the quick brown fox jumps over 7 lazy dogs"


def main() -> None:
    folder = Path(sys.argv[1])
    words = folder.with_name("words.txt")
    words.write_text("\n".join(f"the quick brown fox number {at} jumps over {at * 7} lazy dogs" for at in range(400)))
    sentencepiece.SentencePieceTrainer.train(
        input=str(words), model_prefix=str(folder / "tokenizer"), vocab_size=200, model_type="bpe", minloglevel=2
    )
    (folder / "tokenizer.vocab").unlink()
    (folder / "config.json").write_text(json.dumps({"architectures": ["LlamaForCausalLM"], "model_type": "llama"}))
    with confined_tokenizer(folder) as tokenizer:
        read = tokenizer(TEXT, add_special_tokens=False).input_ids
    own = sentencepiece.SentencePieceProcessor(model_file=str(folder / "tokenizer.model"))
    pieces = [own.id_to_piece(token) for token in read]
    print(json.dumps({"pieces": pieces, "files": sorted(path.name for path in folder.iterdir())}))


if __name__ == "__main__":
    main()
