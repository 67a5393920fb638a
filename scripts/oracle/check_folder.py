#!/usr/bin/env python3
"""Open a checkpoint folder with transformers and print what it says, as one JSON object.

    python scripts/oracle/check_folder.py DIR --prompt "First" --new 20            # greedy continuation
    python scripts/oracle/check_folder.py DIR --text "To be"                       # encode, decode
    python scripts/oracle/check_folder.py DIR --tokens 5,9,2,7 --double            # per-token numbers
    python scripts/oracle/check_folder.py DIR --tokens 5,9,2,7 --grads grads.safetensors

Text is encoded by tokenizer.json itself; `auto_tokenizer` says what AutoTokenizer makes of the folder, and `agrees` whether it
gives the same ids and the same text back (transformers 5 distrusts the tokenizer of a qwen2 folder, see random_folder.py).

For --tokens: `logprobs[i]` is log p(tokens[i+1] | tokens[..=i]) and `entropy[i]` that of the distribution it was drawn
from, both in nats; `loss` is minus the mean of `logprobs`, and --grads writes its gradient for every parameter, by name.
Compare with `lehr generate` and `lehr score`.

Needs torch, transformers, tokenizers, safetensors. The folder is all it reads; nothing is downloaded.
"""

import argparse
import json
from pathlib import Path

import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer
from transformers import AutoModelForCausalLM, AutoTokenizer


def encode(tokenizer, text):
    return tokenizer.encode(text, add_special_tokens=False).ids


def continue_greedily(model, prompt, count):
    """The likeliest next token, count times, and the gap in logits to the second: a small one may differ elsewhere."""
    ids, gaps = list(prompt), []
    with torch.no_grad():
        for _ in range(count):
            top = model(input_ids=torch.tensor([ids]), use_cache=False).logits[0, -1].topk(2)
            ids.append(top.indices[0].item())
            gaps.append((top.values[0] - top.values[1]).item())
    return ids[len(prompt):], min(gaps, default=None)


def token_numbers(model, ids):
    """Log-probabilities, entropies and their mean loss, which can be differentiated."""
    # torch leaves out the gradient of the padding token's row of the embedding, wherever that token stands.
    model.get_input_embeddings().padding_idx = None
    tokens = torch.tensor([ids])
    logp = torch.log_softmax(model(input_ids=tokens, use_cache=False).logits[0, :-1], dim=-1)
    chosen = logp.gather(-1, tokens[0, 1:, None]).squeeze(-1)
    return chosen, -(logp.exp() * logp).sum(-1), -chosen.mean()


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("dir", type=Path)
    p.add_argument("--text", default="Hello", help="text to encode and decode again")
    p.add_argument("--prompt", help="text to continue")
    p.add_argument("--new", type=int, default=16, metavar="N", help="tokens to generate from the prompt")
    p.add_argument("--tokens", help="comma-separated ids to score, or @FILE with them")
    p.add_argument("--grads", type=Path, metavar="FILE", help="write the gradient of the mean loss of --tokens here")
    p.add_argument("--dtype", choices=["auto", "float32"], default="float32", help="compute in the folder's dtype or in f32")
    p.add_argument("--double", action="store_true", help="weights and matmuls in f64 (norms and softmax stay f32)")
    args = p.parse_args()
    if args.grads and not args.tokens:
        p.error("--grads needs --tokens")

    stored = AutoModelForCausalLM.from_pretrained(args.dir, dtype="auto", local_files_only=True)
    out = dict(model=type(stored).__name__, dtype=str(stored.dtype).removeprefix("torch."), parameters=stored.num_parameters())
    model = stored if args.dtype == "auto" else stored.float()
    model = (model.double() if args.double else model).eval()

    if (args.dir / "tokenizer.json").exists():
        tokenizer = Tokenizer.from_file(str(args.dir / "tokenizer.json"))
        ids = encode(tokenizer, args.text)
        decoded = tokenizer.decode(ids)
        auto = AutoTokenizer.from_pretrained(args.dir, local_files_only=True)
        agrees = (auto.encode(args.text, add_special_tokens=False), auto.decode(ids)) == (ids, decoded)
        out.update(tokenizer_vocab=tokenizer.get_vocab_size(), text=args.text, ids=ids, decoded=decoded,
                   round_trip=decoded == args.text, auto_tokenizer=type(auto).__name__, agrees=agrees)
        if args.prompt is not None:
            prompt = encode(tokenizer, args.prompt)
            new, gap = continue_greedily(model, prompt, args.new)
            out.update(prompt=args.prompt, prompt_ids=prompt, new_ids=new, new_text=tokenizer.decode(new), smallest_gap=gap)
    elif args.prompt is not None:
        p.error("the folder has no tokenizer.json, so --prompt cannot be encoded")

    if args.tokens:
        listed = Path(args.tokens[1:]).read_text() if args.tokens.startswith("@") else args.tokens
        ids = [int(t) for t in listed.replace(",", " ").split()]
        logprobs, entropy, loss = token_numbers(model, ids)
        out.update(tokens=ids, logprobs=logprobs.tolist(), entropy=entropy.tolist(), loss=loss.item())
        if args.grads:
            loss.backward()
            grads = {k: p.grad.float().contiguous() for k, p in model.named_parameters()}
            save_file(grads, args.grads)
            out["grad_norm"] = torch.stack([g.double().norm() for g in grads.values()]).norm().item()
    print(json.dumps(out, ensure_ascii=False))


if __name__ == "__main__":
    main()
