"""Models of random numbers in Hugging Face's layout, a few hundred kilobytes each, made in a moment."""

from __future__ import annotations

CHATML = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>\\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)
SPECIAL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
WORDS = ("the", "fox", " fox", " is", "red", '"', "true", " {", "\u00e9")


def byte_level(extra=()):
    """A tokenizer of bytes and a few words; `extra` are user-defined tokens."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {text: number for number, text in enumerate([*SPECIAL, *letters])}
    merges = []
    for word in WORDS:
        pieces = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False).pre_tokenize_str(word)
        built = pieces[0][0][0]
        for letter in pieces[0][0][1:]:
            if built + letter not in vocabulary:
                merges.append((built, letter))
                vocabulary[built + letter] = len(vocabulary)
            built += letter
    native = Tokenizer(models.BPE(vocab=vocabulary, merges=merges))
    native.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    native.decoder = decoders.ByteLevel()
    native.add_special_tokens(list(SPECIAL))
    native.add_tokens([AddedToken(text, special=False, normalized=False) for text in extra])
    return PreTrainedTokenizerFast(tokenizer_object=native, eos_token="<|im_end|>", chat_template=CHATML)


def sentencepiece_like():
    """As Llama 2's: words that begin with a sign for the blank, and bytes for all else."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    pieces = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), *"\u2581abcdefgh", "\u2581a", "\u2581b"]
    native = Tokenizer(
        models.BPE(
            vocab={piece: number for number, piece in enumerate(pieces)},
            merges=[("\u2581", "a"), ("\u2581", "b")],
            unk_token="<unk>",
            byte_fallback=True,
        )
    )
    native.pre_tokenizer = pre_tokenizers.Metaspace(replacement="\u2581", prepend_scheme="first", split=False)
    native.decoder = decoders.Sequence(
        [decoders.Replace("\u2581", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    native.add_special_tokens(["<s>", "</s>"])
    return PreTrainedTokenizerFast(tokenizer_object=native, bos_token="<s>", eos_token="</s>", unk_token="<unk>")


def save(folder, tokenizer=None, *, kind="LlamaConfig", seed=0, **sizes):
    """Writes a model that never ends a greedy reply, and its tokenizer; gives the folder."""
    import torch
    import transformers

    tokenizer = tokenizer or byte_level()
    plain = {
        "vocab_size": len(tokenizer), "hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 96,
        "num_key_value_heads": 2, "max_position_embeddings": 1024, "initializer_range": 0.4, "eos_token_id": 2, "bos_token_id": 1,
    }  # fmt: skip
    config = getattr(transformers, kind)(**(plain | sizes))
    torch.manual_seed(seed)
    model = transformers.AutoModelForCausalLM.from_config(config)
    with torch.no_grad():
        model.get_output_embeddings().weight[: len(SPECIAL)] = 0  # replies do not end by themselves
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder
