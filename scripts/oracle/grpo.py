#!/usr/bin/env python3
"""One step of reinforcement learning in plain PyTorch, to hold `lehr replay` against.

    python scripts/oracle/grpo.py golden                                              # remake tests/golden/grpo
    python scripts/oracle/grpo.py check --lehr target/release/lehr --count 20 --seed 0   # random folders, rows and settings

Nothing here is shared with lehr: completions go through the transformers model one by one, without packing; losses are written
from the formulas (arXiv 2505.12929, Eq. 1 to 4 and Algorithm 1; the clamps and the order of updates of its released code), gradients
are autograd's, updates torch.optim's. All arithmetic is float64 on the f32 weights.

`check` runs `lehr replay` on random batches and compares every loss, clip fraction, KL, entropy, norm, every gradient of every pass and
every weight after the step. Errors of tensors are max |got - want| / (|want| + rms(want)); the column f32 is the same error of this
script in float32, summed rounding being what it is. A case in which a ratio comes within 1e-4 of a clip bound (or a probability of a
threshold) is drawn again: rounding would decide.

Exit status 1 if anything is worse than --tolerance. Needs torch, transformers, tokenizers, safetensors; downloads nothing.
"""

import argparse
import copy
import json
import math
import os
import random
import subprocess
import sys
import tempfile
from pathlib import Path

os.environ.update(HF_HUB_OFFLINE="1", TRANSFORMERS_VERBOSITY="error", HF_HUB_DISABLE_PROGRESS_BARS="1")

import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

HERE = Path(__file__).resolve().parent
GOLDEN = HERE.parent.parent / "tests" / "golden"

DEFAULTS = dict(
    algorithm="grpo", beta=0.0, epsilon=0.2, epsilon_high=None, delta=None, entropy_coef=0.0, loss_type="token-mean",
    scale_rewards="group", num_iterations=1, mini_batch_size=None, mask_truncated_completions=False, reweight_alpha=0.0,
    lopti_eta=None, lopti_quantile=None, lopti_order="low-first", lopti_moments="shared", optimizer="adamw", mask_bins=None,
    temperature=1.0, max_completion_length=256, learning_rate=1e-4, adam_beta1=0.9, adam_beta2=0.999, adam_epsilon=1e-8,
    weight_decay=0.01, max_grad_norm=1.0)


# ---- the step

def open_model(folder, dtype=torch.float64):
    """The model in eager attention; no row of the embedding is left out of the gradient."""
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager").to(dtype).eval()
    model.get_input_embeddings().padding_idx = None
    return model


def token_numbers(model, row, temperature):
    """log pi and entropy of each token of a completion."""
    ids = torch.tensor([row["prompt"] + row["completion"]])
    logits = model(input_ids=ids, use_cache=False).logits[0, len(row["prompt"]) - 1:-1] / temperature
    logp = torch.log_softmax(logits, dim=-1)
    chosen = logp.gather(-1, ids[0, len(row["prompt"]):, None]).squeeze(-1)
    return chosen, -(logp.exp() * logp).sum(-1)


def advantages(rows, s):
    """One number a completion."""
    rewards = torch.tensor([r["reward"] for r in rows], dtype=torch.float64)
    if s["algorithm"] == "reinforce++":
        of_token = torch.cat([torch.full((len(r["completion"]),), r["reward"], dtype=torch.float64) for r in rows])
        n, mean = len(of_token), of_token.mean()
        variance = ((of_token - mean) ** 2).mean() * n / (n - 1)
        return (rewards - mean) * torch.rsqrt(variance + 1e-8)
    out = torch.empty_like(rewards)
    for i, row in enumerate(rows):
        group = torch.tensor([r["reward"] for r in rows if r["group"] == row["group"]], dtype=torch.float64)
        mean, std = (group.mean(), group.std()) if len(group) > 1 else (0.0, 1.0)
        if s["scale_rewards"] == "batch":
            std = rewards.std() if len(rewards) > 1 else 1.0
        out[i] = (rewards[i] - mean) / (1.0 if s["scale_rewards"] == "none" else std + 1e-6)
    return out


def groups(old, rows, s):
    """(name, one mask a completion) of each pass of an iteration; and how near a probability is to a threshold."""
    probability = torch.cat(old).exp()
    alive = torch.cat([torch.full_like(o, not (s["mask_truncated_completions"] and r.get("truncated"))) for o, r in zip(old, rows)]).bool()
    margin = 1.0
    if s["mask_bins"]:
        number = (probability * 4).floor().clamp(max=3) + 1
        alive &= torch.isin(number, torch.tensor(s["mask_bins"], dtype=number.dtype))
        margin = min((probability * 4 - k).abs().min().item() / 4 for k in (1, 2, 3))
    sizes = [len(o) for o in old]
    split = lambda mask: list(torch.split(mask, sizes))
    if s["lopti_quantile"] is not None:
        candidates = alive.nonzero().squeeze(-1)
        order = candidates[probability[candidates].argsort(stable=True)]
        low = torch.zeros_like(alive)
        low[order[:math.floor(s["lopti_quantile"] * len(candidates) + 0.5)]] = True
    elif s["lopti_eta"]:
        low = (probability < s["lopti_eta"]) & alive
        margin = min(margin, (probability - s["lopti_eta"]).abs().min().item())
    else:
        return [("all", split(alive))] if alive.any() else [], margin
    passes = [("low", split(low)), ("high", split(alive & ~low))]
    if s["lopti_order"] == "high-first":
        passes.reverse()
    return [(name, mask) for name, mask in passes if any(m.any() for m in mask)], margin


def update_loss(model, batch, s):
    """The loss of one mini-batch, and its numbers. `batch` holds (row, old, reference, advantage, mask of the pass)."""
    low, high = 1 - s["epsilon"], 1 + (s["epsilon"] if s["epsilon_high"] is None else s["epsilon_high"])
    dropped = lambda row: s["mask_truncated_completions"] and row.get("truncated")
    all_tokens = sum(len(row["completion"]) for row, *_ in batch if not dropped(row))
    sums = dict.fromkeys(["loss", "policy_loss", "kl", "entropy", "approx_kl", "clip_low", "clip_high", "clip_dual", "tokens"], 0.0)
    total, margin = 0.0, 1.0
    for row, old, reference, advantage, mask in batch:
        logp, entropy = token_numbers(model, row, s["temperature"])
        old, reference, a = old.to(logp), reference.to(logp), torch.where(mask, advantage.to(logp), 0.0)
        ratio = torch.exp(logp - old)
        plain, clipped = -a * ratio, -a * torch.clamp(ratio, low, high)
        pg = torch.maximum(plain, clipped)
        dual = torch.zeros_like(mask)
        if s["delta"] is not None:
            dual = (a < 0) & (pg > -a * s["delta"])
            pg = torch.where(a < 0, torch.minimum(pg, -a * s["delta"]), pg)
            margin = min(margin, (ratio - s["delta"]).abs().min().item())
        gap = reference - logp
        distance = torch.clamp(gap, -5, 5)
        kl = torch.clamp(torch.exp(distance) - distance - 1, -10, 10)
        inside = mask.to(logp)
        n = len(row["completion"])
        w = {"token-mean": 1 / max(all_tokens, 1), "seq-mean-token-sum": 1 / len(batch), "seq-mean-token-mean": 1 / (len(batch) * n),
             "dr_grpo": 1 / (len(batch) * s["max_completion_length"])}[s["loss_type"]]
        if dropped(row):
            w = 0.0
        policy = w * pg.sum()
        total = total + policy + w * (inside * (s["beta"] * kl - s["entropy_coef"] * entropy)).sum()
        with torch.no_grad():
            margin = min(margin, (ratio - low).abs().min().item(), (ratio - high).abs().min().item())
            if s["beta"]:
                margin = min(margin, (gap.abs() - 5).abs().min().item(), (torch.exp(distance) - distance - 11).abs().min().item())
            for name, values in [
                ("kl", inside * kl if s["beta"] else inside * 0), ("entropy", inside * entropy), ("approx_kl", inside * (old - logp)),
                ("clip_low", (a < 0) & (ratio < low)), ("clip_high", (a > 0) & (ratio > high)), ("clip_dual", dual), ("tokens", inside)]:
                sums[name] += values.sum().item()
            sums["policy_loss"] += policy.item()
    for name in ["kl", "entropy", "approx_kl", "clip_low", "clip_high", "clip_dual"]:
        sums[name] /= max(sums["tokens"], 1)
    sums["loss"] = total.item()
    return total, sums, margin


def make_optimizer(model, s):
    if s["optimizer"] == "sgd":
        return torch.optim.SGD(model.parameters(), lr=s["learning_rate"])
    of = lambda matrices: [p for p in model.parameters() if (p.dim() >= 2) == matrices]
    return torch.optim.AdamW(
        [dict(params=of(True), weight_decay=s["weight_decay"]), dict(params=of(False), weight_decay=0.0)], lr=s["learning_rate"],
        betas=(s["adam_beta1"], s["adam_beta2"]), eps=s["adam_epsilon"], foreach=False, fused=False)


def step(model, rows, s, reference=None):
    """Passes with their updates and summed gradients, the change of every weight, log pi before and after; `model` is changed."""
    with torch.no_grad():
        before = [token_numbers(model, r, s["temperature"])[0] for r in rows]
        of_reference = [token_numbers(reference or model, r, s["temperature"])[0] for r in rows]
    given = lambda row, name, computed: torch.tensor(row[name], dtype=torch.float64) if row.get(name) else computed.double()
    old = [given(r, "old_logprobs", b) for r, b in zip(rows, before)]
    ref = [given(r, "ref_logprobs", b) for r, b in zip(rows, of_reference)]
    adv = [a * (s["reweight_alpha"] * o.exp() + 1 - s["reweight_alpha"]) for a, o in zip(advantages(rows, s), old)]
    initial = {name: p.detach().clone() for name, p in model.named_parameters()}
    passes, margin = groups(old, rows, s)
    optimizers = [make_optimizer(model, s)]
    optimizers.append(make_optimizer(model, s) if s["lopti_moments"] == "separate" and s["optimizer"] == "adamw" else optimizers[0])
    second = "low" if s["lopti_order"] == "high-first" else "high"
    size = s["mini_batch_size"] or len(rows)
    out = []
    for iteration in range(s["num_iterations"]):
        for name, masks in passes:
            grads = {key: torch.zeros_like(p) for key, p in model.named_parameters()}
            updates = []
            for first in range(0, len(rows), size):
                batch = list(zip(rows, old, ref, adv, masks))[first:first + size]
                model.zero_grad()
                loss, numbers, near = update_loss(model, batch, s)
                loss.backward()
                margin = min(margin, near)
                for key, p in model.named_parameters():
                    if p.grad is None:
                        p.grad = torch.zeros_like(p)
                    grads[key] += p.grad
                most = s["max_grad_norm"] if s["max_grad_norm"] > 0 else float("inf")
                numbers["grad_norm"] = torch.nn.utils.clip_grad_norm_(model.parameters(), most, foreach=False).item()
                optimizers[name == second].step()
                updates.append(numbers)
            label = f"{name}.{iteration + 1}" if s["num_iterations"] > 1 else name
            out.append(dict(name=label, updates=updates, grads=grads))
    with torch.no_grad():
        after = [token_numbers(model, r, s["temperature"])[0] for r in rows]
    moved = {name: p.detach() - initial[name] for name, p in model.named_parameters()}
    return dict(passes=out, moved=moved, before=before, after=after, margin=margin, advantages=adv)


# ---- cases

def rounded(values):
    """As a file holds them: single precision."""
    return torch.tensor(values, dtype=torch.float64).float().double().tolist()


def sample_rows(model, r, count, longest_prompt, longest_completion, temperature, noise):
    """Completions drawn from the model, in groups; old and reference log-probabilities of a policy nearby."""
    g = torch.Generator().manual_seed(r.randrange(1 << 30))
    rows, group, left, prompt = [], -1, 0, []
    vocab = model.config.vocab_size
    for _ in range(count):
        if left == 0:
            group, left = group + 1, r.choice([1, 2, 3, 4])
            prompt = [r.randrange(vocab) for _ in range(r.randint(1, longest_prompt))]
        left -= 1
        ids = list(prompt)
        with torch.no_grad():
            for _ in range(r.randint(1, longest_completion)):
                p = torch.softmax(model(input_ids=torch.tensor([ids]), use_cache=False).logits[0, -1].double() / temperature, -1)
                ids.append(torch.multinomial(p, 1, generator=g).item())
        row = dict(group=group, prompt=prompt, completion=ids[len(prompt):], reward=r.choice([0.0, 1.0, 1.0, 3.0, -0.5]))
        if r.random() < 0.2:
            row["truncated"] = True
        if noise:
            with torch.no_grad():
                logp = token_numbers(model, row, temperature)[0]
            draw = lambda: rounded((logp + noise * torch.randn(logp.shape, generator=g)).clamp(max=-1e-4).tolist())
            row["old_logprobs"], row["ref_logprobs"] = draw(), draw()
        rows.append(row)
    return rows


def flags_of(s):
    out = []
    for name, value in s.items():
        if value == DEFAULTS[name] or value is None:
            continue
        value = ",".join(map(str, value)) if isinstance(value, list) else str(value).lower() if isinstance(value, bool) else str(value)
        out.append(f"--{name.replace('_', '-')}={value}")
    return out


CASES = {
    # name: (model folder, settings, rows, noise, temperature of the rows is that of the settings)
    "plain": ("llama-gqa", dict(max_grad_norm=0.05, beta=0.04, entropy_coef=0.02, delta=1.4, epsilon_high=0.28, temperature=0.7), 0.4),
    "lopti": ("qwen2", dict(lopti_eta=0.5, reweight_alpha=0.3, beta=0.1, epsilon_high=0.24, temperature=0.5, adam_epsilon=1e-5,
                            learning_rate=1e-3, mini_batch_size=4), 0.15),
    "sgd": ("qwen3", dict(algorithm="reinforce++", optimizer="sgd", learning_rate=0.05, mask_bins=[1, 4], temperature=0.4,
                          loss_type="seq-mean-token-mean", mask_truncated_completions=True), 0.0),
    "iterations": ("llama-tied", dict(num_iterations=2, loss_type="dr_grpo", max_completion_length=9, scale_rewards="none",
                                      learning_rate=1e-2, adam_epsilon=1e-5, weight_decay=0.1, lopti_quantile=0.4,
                                      lopti_order="high-first", lopti_moments="separate"), 0.0),
}
UPDATE = ["loss", "policy_loss", "kl", "entropy", "approx_kl", "clip_low", "clip_high", "clip_dual", "tokens", "grad_norm"]


def golden():
    torch.manual_seed(0)
    out = GOLDEN / "grpo"
    out.mkdir(exist_ok=True)
    for name, (folder, settings, noise) in CASES.items():
        s = DEFAULTS | settings
        for seed in range(100):
            model = open_model(GOLDEN / folder)
            r = random.Random(f"{name} {seed}")
            rows = sample_rows(model, r, 7, 6, 9, s["temperature"], noise)
            result = step(model, rows, s)
            updates = [u for p in result["passes"] for u in p["updates"]]
            if result["margin"] > 1e-3 and all(u["tokens"] > 2 for u in updates) and (name != "plain" or updates[0]["clip_dual"] > 0):
                break
        tensors = {f"{p['name']}/{key}": g.float() for p in result["passes"] for key, g in p["grads"].items()}
        if name != "plain":  # one case less keeps the folder small
            tensors |= {f"moved/{key}": m.float() for key, m in result["moved"].items()}
        if name == "iterations":  # the first two passes say enough
            tensors = {key: t for key, t in tensors.items() if ".2/" not in key}
        save_file({key: t.contiguous() for key, t in tensors.items()}, out / f"{name}.safetensors")
        (out / f"{name}.safetensors").chmod(0o644)
        passes = [dict(name=p["name"], updates=[{k: u[k] for k in UPDATE} for u in p["updates"]]) for p in result["passes"]]
        text = json.dumps(dict(
            model=folder, flags=flags_of(s), rows=rows, passes=passes, advantages=[a.tolist() for a in result["advantages"]],
            before=[b.tolist() for b in result["before"]], after=[a.tolist() for a in result["after"]]), indent=None)
        (out / f"{name}.json").write_text(text + "\n")
        print(name, "seed", seed, "margin", f"{result['margin']:.4f}", [(p["name"], p["updates"][0]) for p in passes])


def random_settings(r):
    pick = lambda *options: r.choice(options)
    s = dict(
        algorithm=pick("grpo", "grpo", "reinforce++"), beta=pick(0.0, 0.0, 0.001, 0.1), epsilon=pick(0.2, 0.1),
        epsilon_high=pick(None, 0.24, 0.5), delta=pick(None, None, 2.0, 10.0), entropy_coef=pick(0.0, 0.0, 0.01, -0.1),
        loss_type=pick("token-mean", "token-mean", "seq-mean-token-sum", "seq-mean-token-mean", "dr_grpo"),
        scale_rewards=pick("group", "group", "batch", "none"), num_iterations=pick(1, 1, 1, 2), mini_batch_size=pick(None, None, 2, 3, 5),
        mask_truncated_completions=pick(False, False, True), reweight_alpha=pick(0.0, 0.3, 1.0), lopti_order=pick("low-first", "high-first"),
        lopti_moments=pick("shared", "separate"), optimizer=pick("adamw", "adamw", "sgd"), temperature=pick(1.0, 0.7, 0.4, 1.5),
        max_completion_length=pick(256, 33), mask_bins=pick(None, None, None, [1], [4], [1, 4], [2, 3]),
        weight_decay=pick(0.0, 0.01, 0.3), max_grad_norm=pick(0.0, 1.0, 0.02), adam_epsilon=pick(1e-8, 1e-4))
    s["learning_rate"] = pick(1e-4, 1e-3) if s["optimizer"] == "adamw" else pick(1e-3, 0.05)
    which = pick("eta", "quantile", None)
    s["lopti_eta"] = pick(0.5, 0.3, 0.1) if which == "eta" else None
    s["lopti_quantile"] = pick(0.5, 0.25) if which == "quantile" else None
    return DEFAULTS | s


def relative(got, want):
    got, want = torch.as_tensor(got).double(), torch.as_tensor(want).double()
    if got.shape != want.shape or not torch.isfinite(got).all():
        return float("inf")
    scale = want.abs() + want.square().mean().sqrt()
    return ((got - want).abs() / scale.clamp_min(1e-12)).max().item() if want.numel() else 0.0


def errors(got, want):
    """Worst errors of numbers, gradients and moves of one result against another."""
    numbers, grads = 0.0, 0.0
    if [p["name"] for p in got["passes"]] != [p["name"] for p in want["passes"]]:
        return dict(numbers=float("inf"), grads=float("inf"), moved=float("inf"))
    for g, w in zip(got["passes"], want["passes"]):
        for gu, wu in zip(g["updates"], w["updates"]):
            for name in UPDATE:
                numbers = max(numbers, abs(gu[name] - wu[name]) / (abs(wu[name]) + (1.0 if name != "grad_norm" else 1e-9)))
        if set(g["grads"]) != set(w["grads"]):
            grads = float("inf")
        for key in w["grads"]:
            grads = max(grads, relative(g["grads"][key], w["grads"][key]))
    # Adam's first steps are signs of gradients: where one is all rounding, so is its step. The tensor as a whole says more.
    of = lambda moved: torch.cat([moved[key].double().flatten() for key in sorted(want["moved"])])
    gm, wm = of(got["moved"]), of(want["moved"])
    return dict(numbers=numbers, grads=grads, moved=((gm - wm).norm() / wm.norm().clamp_min(1e-12)).item())


def ask_lehr(args, folder, rows, s, more, work):
    (work / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    for path in [work / "grads.safetensors", work / "after"]:
        if path.exists():
            subprocess.run(["rm", "-r", path], check=True)
    command = [args.lehr, "replay", "--model", folder, "--rollouts", work / "rows.jsonl", "--grads", work / "grads.safetensors",
               "--out", work / "after", "--json", *flags_of(s), *more]
    done = subprocess.run([str(c) for c in command], capture_output=True, text=True, stdin=subprocess.DEVNULL)
    if done.returncode != 0:
        raise RuntimeError(f"{' '.join(map(str, command))}\n{done.stderr[-800:]}")
    report = json.loads(done.stdout)
    grads = load_file(work / "grads.safetensors")
    passes = []
    for p in report["passes"]:
        prefix = p["pass"] + "/" if len(report["passes"]) > 1 else ""
        of = {key[len(prefix):]: t for key, t in grads.items() if key.startswith(prefix)}
        passes.append(dict(name=p["pass"], updates=p["updates"], grads=of))
    before, after = open_model(folder, torch.float32), open_model(work / "after", torch.float32)
    start = dict(before.named_parameters())
    return dict(passes=passes, moved={key: (p.double() - start[key].double()).detach() for key, p in after.named_parameters()})


def check(args):
    from parity import make_folder
    from random_folder import CONFIGS
    worst = dict(numbers=0.0, grads=0.0, moved=0.0)
    failed = 0
    print(f"{'case':<14} {'numbers':>8} {'grads':>8} {'(f32)':>8} {'moved':>8} {'(f32)':>8}  shape and flags", flush=True)
    for i in range(args.count):
        arch = sorted(CONFIGS)[i % 3]
        for attempt in range(200):
            with tempfile.TemporaryDirectory() as work:
                work = Path(work)
                r = random.Random(f"{args.seed} {i} {attempt}")
                _, words = make_folder(arch, r, r.randrange(1 << 30), work / "model")
                s = random_settings(r)
                model = open_model(work / "model")
                longest = r.choice([3, 12, 40])
                rows = sample_rows(model, r, r.randint(1, 12), r.choice([1, 5, 30]), longest, s["temperature"], r.choice([0.0, 0.1, 0.6]))
                own = copy.deepcopy(model)
                alive = [row for row in rows if not (s["mask_truncated_completions"] and row.get("truncated"))]
                if not alive or s["algorithm"] == "reinforce++" and sum(len(row["completion"]) for row in rows) < 2:
                    continue
                want = step(own, rows, s)
                if want["margin"] < 1e-4 or not want["passes"]:
                    continue
                single = step(open_model(work / "model", torch.float32), rows, s)
                more = [f"--seq-len={r.choice([0, 64, 80])}", *r.choice([[], ["--micro-batch-size=1"], ["--micro-batch-size=3"]])]
                got = ask_lehr(args, work / "model", rows, s, more, work)
                found, scale = errors(got, want), errors(single, want)
                break
        bad = found["numbers"] > max(args.tolerance, 10 * scale["numbers"]) or found["grads"] > max(args.tolerance, 10 * scale["grads"]) \
            or found["moved"] > max(20 * args.tolerance, 10 * scale["moved"])
        failed += bad
        worst = {key: max(worst[key], found[key]) for key in worst}
        print(f"{arch + ' ' + str(i):<14} {found['numbers']:8.1e} {found['grads']:8.1e} {scale['grads']:8.1e} {found['moved']:8.1e} "
              f"{scale['moved']:8.1e}  {'FAIL ' if bad else ''}{words}; {len(rows)} rows; {' '.join(flags_of(s) + more)}", flush=True)
    print("worst:", {key: f"{value:.1e}" for key, value in worst.items()}, f"{failed} failed of {args.count}")
    return failed


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("what", choices=["golden", "check"])
    p.add_argument("--lehr", help="the binary")
    p.add_argument("--count", type=int, default=12, help="cases, in turn of each architecture")
    p.add_argument("--seed", type=int, default=0)
    p.add_argument("--tolerance", type=float, default=5e-5)
    args = p.parse_args()
    if args.what == "golden":
        golden()
        return 0
    return 1 if check(args) else 0


if __name__ == "__main__":
    sys.exit(main())
