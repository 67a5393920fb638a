//! `config.json`: what transformers writes is read, what would change the arithmetic is refused, what is written reads back.

use super::*;

fn base(architecture: Architecture) -> ModelConfig {
    ModelConfig {
        architecture,
        vocab_size: 300,
        hidden_size: 64,
        intermediate_size: 128,
        num_hidden_layers: 2,
        num_attention_heads: 4,
        num_key_value_heads: 2,
        head_dim: 32,
        max_position_embeddings: 512,
        rms_norm_eps: 1e-6,
        rope_theta: 500_000.0,
        rope_scaling: None,
        tie_word_embeddings: true,
        initializer_range: 0.02,
    }
}

const SCALING: Llama3Scaling =
    Llama3Scaling { factor: 8.0, low_freq_factor: 1.0, high_freq_factor: 4.0, original_max_position_embeddings: 8192 };

#[test]
fn what_is_written_reads_back() {
    let tokens = SpecialTokens { bos: Some(1), eos: vec![2, 3], pad: None };
    for architecture in [Architecture::Llama, Architecture::Qwen2, Architecture::Qwen3] {
        for rope_scaling in [None, Some(SCALING)] {
            let model = ModelConfig { rope_scaling, ..base(architecture) };
            let text = hf_config::config_json(&model, &tokens).to_string();
            let back = hf_config::parse(text.as_bytes()).unwrap();
            assert_eq!((back.model, back.tokens, back.notices), (model, tokens.clone(), vec![]));
        }
    }
}

/// The least that transformers needs, with these fields changed.
fn parse(change: &str) -> anyhow::Result<hf_config::HfConfig> {
    let mut json = serde_json::json!({
        "architectures": ["LlamaForCausalLM"], "vocab_size": 300, "hidden_size": 64, "intermediate_size": 128,
        "num_hidden_layers": 2, "num_attention_heads": 4
    });
    let change: serde_json::Value = serde_json::from_str(change).unwrap();
    for (key, value) in change.as_object().unwrap() {
        json[key] = value.clone();
    }
    hf_config::parse(json.to_string().as_bytes())
}

#[test]
fn absent_fields_have_the_classes_defaults() {
    let m = parse("{}").unwrap().model;
    assert_eq!((m.num_key_value_heads, m.head_dim, m.max_position_embeddings), (4, 16, 2048));
    assert_eq!((m.rope_theta, m.rms_norm_eps, m.tie_word_embeddings), (10000.0, 1e-6, false));
    let qwen = r#"{"architectures":["Qwen3ForCausalLM"],"num_attention_heads":32}"#;
    let m = parse(qwen).unwrap().model;
    assert_eq!((m.num_key_value_heads, m.head_dim, m.max_position_embeddings), (32, 128, 32768));
    assert_eq!(parse(r#"{"architectures":null,"model_type":"qwen2","num_key_value_heads":null}"#).unwrap().model.qkv_dim(), 192);
    assert_eq!(parse(r#"{"rope_scaling":null,"rope_theta":5}"#).unwrap().model.rope_theta, 5.0);
    assert_eq!(parse(r#"{"rope_parameters":{"rope_type":"default","rope_theta":7.0}}"#).unwrap().model.rope_theta, 7.0);
    let llama3 = r#"{"rope_type":"llama3","factor":8.0,"low_freq_factor":1.0,"high_freq_factor":4.0,
        "original_max_position_embeddings":8192,"rope_theta":9.0}"#;
    let m = parse(&format!(r#"{{"rope_parameters":{llama3}}}"#)).unwrap().model;
    assert_eq!((m.rope_theta, m.rope_scaling), (9.0, Some(SCALING)));
    let old = llama3.replace("rope_type", "type").replace(",\"rope_theta\":9.0", "");
    let m = parse(&format!(r#"{{"rope_theta":3.0,"rope_scaling":{old}}}"#)).unwrap().model;
    assert_eq!((m.rope_theta, m.rope_scaling), (3.0, Some(SCALING)));
    let t = parse(r#"{"bos_token_id":1,"eos_token_id":[2,3],"pad_token_id":-1}"#).unwrap().tokens;
    assert_eq!(t, SpecialTokens { bos: Some(1), eos: vec![2, 3], pad: None });
    assert_eq!(parse(r#"{"attention_dropout":0.1,"eos_token_id":300}"#).unwrap().notices.len(), 2);
    assert!(
        hf_config::parse("\u{feff}{\r\n\"model_type\":\"llama\"}".as_bytes()).unwrap_err().to_string().contains("hidden_size")
    );
}

#[test]
fn what_lehr_does_not_build_is_refused_by_name() {
    for (change, parts) in [
        (r#"{"attention_bias":true}"#, ["attention_bias = true", "Qwen2"]),
        (r#"{"mlp_bias":true}"#, ["mlp_bias = true", "SwiGLU"]),
        (r#"{"hidden_act":"gelu\u001b"}"#, ["hidden_act = \"gelu\\u001b\"", "silu"]),
        (r#"{"architectures":["Qwen2ForCausalLM"],"use_sliding_window":true}"#, ["use_sliding_window = true", "whole context"]),
        (r#"{"architectures":["Qwen3ForCausalLM"],"attention_bias":true}"#, ["attention_bias = true", "Qwen2"]),
        (r#"{"layer_types":["full_attention","sliding_attention"]}"#, ["layer_types", "full_attention"]),
        (r#"{"partial_rotary_factor":0.5}"#, ["partial_rotary_factor = 0.5", "whole heads"]),
        (r#"{"quantization_config":{"bits":4}}"#, ["quantization_config", "unquantised"]),
        (r#"{"rope_scaling":{"type":"linear","factor":2.0}}"#, ["rope_scaling.rope_type = \"linear\"", "llama3"]),
        (r#"{"rope_parameters":{"rope_type":"yarn","factor":2.0}}"#, ["rope_parameters.rope_type = \"yarn\"", "llama3"]),
        (r#"{"rope_parameters":{"full_attention":{"rope_type":"default"}}}"#, ["rope_parameters", "each kind of layer"]),
        (r#"{"rope_scaling":{"rope_type":"llama3","factor":2.0}}"#, ["original_max_position_embeddings", "missing"]),
        (r#"{"rope_scaling":7}"#, ["rope_scaling = 7", "object"]),
        (
            r#"{"architectures":["GPT2LMHeadModel"]}"#,
            ["GPT2LMHeadModel", "LlamaForCausalLM, Qwen2ForCausalLM and Qwen3ForCausalLM"],
        ),
        (r#"{"architectures":[]}"#, ["architectures = []", "Qwen3ForCausalLM"]),
        (r#"{"hidden_size":0}"#, ["hidden_size = 0", "between 1 and"]),
        (r#"{"num_attention_heads":0}"#, ["num_attention_heads = 0", "between 1 and"]),
        (r#"{"hidden_size":"64"}"#, ["hidden_size = \"64\"", "whole number"]),
        (r#"{"hidden_size":64.5}"#, ["hidden_size = 64.5", "whole number"]),
        (r#"{"hidden_size":-1}"#, ["hidden_size = -1", "whole number"]),
        (r#"{"vocab_size":18446744073709551615}"#, ["vocab_size", "between 1 and"]),
        (r#"{"tie_word_embeddings":"yes"}"#, ["tie_word_embeddings = \"yes\"", "true or false"]),
        (r#"{"rms_norm_eps":null,"rope_theta":-1}"#, ["rope_theta = -1", "positive"]),
        (r#"{"eos_token_id":"</s>"}"#, ["eos_token_id = \"</s>\"", "token id"]),
    ] {
        let text = format!("{:#}", parse(change).expect_err(change));
        for part in parts {
            assert!(text.contains(part), "'{part}' is not in: {text}");
        }
        assert!(!text.chars().any(char::is_control), "{text:?}");
    }
}

#[test]
fn broken_texts_are_refused_with_the_file() {
    let dir = temp();
    let path = dir.path().join("config.json");
    let long = vec![b' '; (1 << 20) + 1];
    let deep = "[".repeat(10_000);
    for (content, part) in [
        (&b""[..], "empty"),
        (b"{", "line 1"),
        (b"[]", "an object of settings"),
        (br#"{"vocab_size":1,"vocab_size":1}"#, "duplicate key 'vocab_size'"),
        (b"{}", "architectures is missing"),
        (br#"{"vocab_size":1,}"#, "column"),
        (b"{\"a\":\"\xff\"}", "line 1"),
        (&long, "larger than"),
        (deep.as_bytes(), "config.json"),
    ] {
        fs::write(&path, content).unwrap();
        let text = format!("{:#}", hf_config::read(&path).unwrap_err());
        assert!(text.contains("config.json") && text.contains(part), "'{part}' is not in: {text}");
    }
    let text = format!("{:#}", hf_config::read(&dir.path().join("none.json")).unwrap_err());
    assert!(text.contains("none.json"), "{text}");
}
