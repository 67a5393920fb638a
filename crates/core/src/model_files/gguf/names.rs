//! Tensor names of llama.cpp and Hugging Face.

use crate::config::Architecture;

/// (llama.cpp, Hugging Face) names of tensors outside the blocks.
const WHOLE: [(&str, &str); 3] = [("token_embd", "model.embed_tokens"), ("output_norm", "model.norm"), ("output", "lm_head")];
/// (llama.cpp, Hugging Face) names of tensors in each block.
const OF_BLOCK: [(&str, &str); 11] = [
    ("attn_norm", "input_layernorm"),
    ("attn_q", "self_attn.q_proj"),
    ("attn_k", "self_attn.k_proj"),
    ("attn_v", "self_attn.v_proj"),
    ("attn_output", "self_attn.o_proj"),
    ("attn_q_norm", "self_attn.q_norm"),
    ("attn_k_norm", "self_attn.k_norm"),
    ("ffn_norm", "post_attention_layernorm"),
    ("ffn_gate", "mlp.gate_proj"),
    ("ffn_up", "mlp.up_proj"),
    ("ffn_down", "mlp.down_proj"),
];
/// The divisors of rotary frequencies; Hugging Face computes them from settings.
pub(super) const ROPE_FREQS: &str = "rope_freqs.weight";

/// Hugging Face's name of a GGUF tensor; `None` if unknown.
pub(super) fn to_hf(name: &str) -> Option<String> {
    let (stem, end) = name.rsplit_once('.')?;
    if !matches!(end, "weight" | "bias") {
        return None;
    }
    let find = |table: &[(&str, &'static str)], stem: &str| table.iter().find(|row| row.0 == stem).map(|row| row.1);
    if let Some(hf) = find(&WHOLE, stem) {
        return Some(format!("{hf}.{end}"));
    }
    let (block, part) = stem.strip_prefix("blk.")?.split_once('.')?;
    let number: u32 = block.parse().ok()?;
    Some(format!("model.layers.{number}.{}.{end}", find(&OF_BLOCK, part)?))
}

/// llama.cpp's name of a Hugging Face tensor.
pub(super) fn to_gguf(name: &str) -> Option<String> {
    let (stem, end) = name.rsplit_once('.')?;
    let find = |table: &[(&'static str, &str)], stem: &str| table.iter().find(|row| row.1 == stem).map(|row| row.0);
    if let Some(gguf) = find(&WHOLE, stem) {
        return Some(format!("{gguf}.{end}"));
    }
    let (block, part) = stem.strip_prefix("model.layers.")?.split_once('.')?;
    Some(format!("blk.{block}.{}.{end}", find(&OF_BLOCK, part)?))
}

/// llama.cpp's name of an architecture.
pub(super) fn architecture(of: Architecture) -> &'static str {
    match of {
        Architecture::Llama | Architecture::Mistral => "llama",
        Architecture::Qwen2 => "qwen2",
        Architecture::Qwen3 => "qwen3",
    }
}

/// For Llama architectures, llama.cpp rotates neighbours and Hugging Face halves: rows of q and k have another order. Reorders the rows of
/// each of `heads` heads in `[rows, ...]` numbers.
///
/// # Panics
/// When the rows of a head are not whole pairs.
pub(super) fn reorder(numbers: &[f32], heads: usize, rows: usize, to_gguf: bool) -> Vec<f32> {
    assert!(rows.is_multiple_of(2 * heads) && numbers.len().is_multiple_of(rows), "{rows} rows in {heads} heads");
    let (width, half) = (numbers.len() / rows, rows / heads / 2);
    let mut out = Vec::with_capacity(numbers.len());
    for row in 0..rows {
        let (head, at) = (row / (2 * half), row % (2 * half));
        // Written: 0, half, 1, half + 1, ... Read back: 0, 2, 4, ..., 1, 3, 5, ...
        let from = if to_gguf { at % 2 * half + at / 2 } else { at % half * 2 + at / half };
        out.extend(&numbers[(head * 2 * half + from) * width..][..width]);
    }
    out
}

/// The number of heads by which the rows of this tensor (Hugging Face's name) are reordered, if they are.
pub(super) fn reordered_heads(name: &str, arch: &str, heads: usize, key_value_heads: usize) -> Option<usize> {
    let part = |part: &str| name.contains(&format!(".self_attn.{part}_proj."));
    match (arch, part("q"), part("k")) {
        ("llama", true, _) => Some(heads),
        ("llama", _, true) => Some(key_value_heads),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_round_trip() {
        for name in
            ["token_embd.weight", "output.weight", "blk.12.attn_q.bias", "blk.0.ffn_norm.weight", "blk.3.attn_k_norm.weight"]
        {
            assert_eq!(to_gguf(&to_hf(name).unwrap()).unwrap(), name);
        }
        assert_eq!(to_hf("blk.3.ffn_up.weight").unwrap(), "model.layers.3.mlp.up_proj.weight");
        for name in ["blk.0.ffn_gate_exps.weight", "blk.x.attn_q.weight", "token_embd", "rope_freqs.weight", "blk.0.attn_q.scale"]
        {
            assert_eq!(to_hf(name), None, "{name}");
        }
    }

    /// `w.reshape(heads, 2, d / 2, C).swapaxes(1, 2)` of convert_hf_to_gguf.py.
    #[test]
    fn rows_of_q_and_k_are_permuted_as_in_llama_cpp() {
        let numbers: Vec<f32> = (0..16).map(|i| i as f32).collect();
        let written = reorder(&numbers, 2, 8, true);
        assert_eq!(written.chunks(2).map(|row| row[0] as usize / 2).collect::<Vec<_>>(), [0, 2, 1, 3, 4, 6, 5, 7]);
        assert_eq!(reorder(&written, 2, 8, false), numbers);
    }
}
