"""Texts to tokens: a tokenizer that the teacher or the student brings, or a WordPiece one trained on the training split."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from edgekd.data.cache import TEXTS, ArrayFile, read_lines
from edgekd.data.splits import Splits
from edgekd.errors import DataError
from edgekd.models.references import kind_of, model_path, name_of
from edgekd.recipe import Recipe
from edgekd.safe import stop
from edgekd.safe.files import sha256_file, write_text
from edgekd.workspace import StageResult, Workspace

TOKENIZER, VOCABULARY = "tokenizer.json", "vocab.txt"
_BATCH = 1_000


def tokenize(recipe: Recipe, data: StageResult, splits: Splits, workspace: Workspace) -> StageResult:
    """Return the stage that holds ``input_ids.npy``, ``attention_mask.npy``, ``tokenizer.json`` and ``vocab.txt``.

    A trained tokenizer is uncased WordPiece as in BERT (Devlin et al., 2019); it sees training texts only.

    Raises:
        DataError: The teacher's folder has no tokenizer, or one without padding.
    """
    options = recipe.data
    given = _given(recipe)
    texts = data.path(TEXTS)
    inputs: dict[str, Any] = {"texts": data.files[TEXTS], "max_tokens": options.max_tokens}
    if given is None:
        inputs |= {"vocabulary": options.vocabulary, "splits": splits.digest()}
        what = f"train WordPiece on {len(splits.train):,} texts, at most {options.vocabulary:,} tokens"
    else:
        inputs["tokenizer"] = sha256_file(given)
        what = f"tokenizer of {given.parent}"

    def work(folder: Path) -> dict[str, Any]:
        tokenizer = _train(texts, splits, options.vocabulary) if given is None else _open(given)
        tokenizer.enable_truncation(options.max_tokens)
        tokenizer.enable_padding(length=options.max_tokens, **_padding(tokenizer, given))
        count, cut = 0, 0
        with (
            ArrayFile(folder / "input_ids.npy", np.int32, (options.max_tokens,)) as ids,
            ArrayFile(folder / "attention_mask.npy", np.int32, (options.max_tokens,)) as masks,
        ):
            for batch in _batches(read_lines(texts)):
                stop.check_stop()
                encoded = tokenizer.encode_batch(batch)
                ids.append(np.asarray([each.ids for each in encoded], np.int32))
                masks.append(np.asarray([each.attention_mask for each in encoded], np.int32))
                cut += sum(bool(each.overflowing) for each in encoded)
                count += len(batch)
                workspace.listener.stage_advanced(count, data.result["shape"][0], "")
        by_index = {index: token for token, index in tokenizer.get_vocab().items()}
        vocabulary = [by_index.get(index, "") for index in range(max(by_index) + 1)]
        write_text(folder / TOKENIZER, tokenizer.to_str(pretty=True) + "\n")
        write_text(folder / VOCABULARY, "".join(f"{token}\n" for token in vocabulary))
        return {"vocabulary": len(vocabulary), "cut": cut, "count": count}

    return workspace.stage("tokenizer", what, inputs, work, _describe)


def _describe(result: dict[str, Any]) -> str:
    return f"{result['vocabulary']:,} tokens; {result['cut']:,} of {result['count']:,} texts were too long and are cut"


def _given(recipe: Recipe) -> Path | None:
    """Return the tokenizer file that the recipe names, or that its transformers teachers or else student bring, or ``None``."""
    if recipe.data.tokenizer is not None:
        path = Path(recipe.data.tokenizer).expanduser()
        found = path / TOKENIZER if path.is_dir() else path
        if not found.is_file():
            raise DataError(
                f"there is no tokenizer {found}", "data.tokenizer names a tokenizer.json, or a folder that holds one"
            )
        return found
    brought = {member.model: _brought(member.model) for member in recipe.teacher.members if kind_of(member.model) == "hf"}
    if len({sha256_file(path) for path in brought.values()}) > 1:
        raise DataError(
            f"the teachers {', '.join(brought)} have different tokenizers, and one text can only be cut up in one way",
            "use teachers with one tokenizer",
        )
    if not brought and kind_of(recipe.student.model) == "hf":
        return _own(recipe.student.model)
    return next(iter(brought.values()), None)


def _brought(reference: str) -> Path:
    found = _own(reference)
    if found is None:
        raise DataError(
            f"{reference} has no {TOKENIZER} or {VOCABULARY}",
            "save its tokenizer there with tokenizer.save_pretrained(...), or name one with data.tokenizer",
        )
    return found


def _own(reference: str) -> Path | None:
    """Return the tokenizer file of an ``hf:`` model: in its folder, or from the hub; ``None``: there is none."""
    folder = model_path(reference)
    names = (TOKENIZER, VOCABULARY)
    for name in names:
        if (folder / name).is_file():
            return folder / name
    if not folder.is_dir():
        from huggingface_hub import hf_hub_download
        from huggingface_hub.errors import RemoteEntryNotFoundError

        for name in names:
            try:
                return Path(hf_hub_download(name_of(reference), name))
            except RemoteEntryNotFoundError:
                continue
            except (OSError, ValueError) as error:
                first = (str(error).strip() or type(error).__name__).splitlines()[0][:200]
                raise DataError(f"cannot load the tokenizer of {reference}: {first}", "check the name or the folder") from None
    return None


def _train(texts: Path, splits: Splits, vocabulary: int) -> Any:
    from tokenizers import BertWordPieceTokenizer

    chosen = np.zeros(int(max(part.max() for part in (splits.train, splits.validation, splits.test))) + 1, bool)
    chosen[splits.train] = True
    tokenizer = BertWordPieceTokenizer(lowercase=True)
    training = (text for text, used in zip(read_lines(texts), chosen, strict=True) if used)
    tokenizer.train_from_iterator(training, vocab_size=vocabulary, min_frequency=2, show_progress=False)
    return tokenizer._tokenizer


def _open(path: Path) -> Any:
    from tokenizers import BertWordPieceTokenizer, Tokenizer

    try:
        return Tokenizer.from_file(str(path)) if path.suffix == ".json" else BertWordPieceTokenizer(str(path))._tokenizer
    except Exception as error:  # the tokenizers library raises plain Exception
        raise DataError(f"{path} is no tokenizer: {str(error)[:200]}", "save it again with save_pretrained(...)") from None


def _padding(tokenizer: Any, path: Path | None) -> dict[str, Any]:
    for token in ("[PAD]", "<pad>", "<|endoftext|>", "</s>"):
        index = tokenizer.token_to_id(token)
        if index is not None:
            return {"pad_id": index, "pad_token": token}
    raise DataError(f"tokenizer {path} has no padding token", "add [PAD] to it")


def _batches(texts: Any) -> Iterator[list[str]]:
    batch: list[str] = []
    for text in texts:
        batch.append(text)
        if len(batch) == _BATCH:
            yield batch
            batch = []
    if batch:
        yield batch
