//! `config.json`: what transformers writes is read, what would change the arithmetic is refused, what is written reads back.

use super::*;
use lehr::config::{RopeScaling, YarnScaling};
use lehr::device::Device;
use lehr::model::Model;
use lehr::vfs::RealFs;

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
        attention_bias: false,
        sliding_window: None,
        tie_word_embeddings: true,
        initializer_range: 0.02,
        lora: None,
    }
}

const SCALING: RopeScaling = RopeScaling::Llama3(Llama3Scaling {
    factor: 8.0,
    low_freq_factor: 1.0,
    high_freq_factor: 4.0,
    original_max_position_embeddings: 8192,
});

const YARN: YarnScaling = YarnScaling {
    factor: 4.0,
    original_max_position_embeddings: 128,
    beta_fast: 32.0,
    beta_slow: 1.0,
    truncate: true,
    attention_factor: None,
    mscale: None,
    mscale_all_dim: None,
};

#[test]
fn exported_configs_round_trip() {
    let tokens = SpecialTokens { bos: Some(1), eos: vec![2, 3], pad: None };
    let yarn = YarnScaling { beta_fast: 16.5, truncate: false, attention_factor: Some(1.25), ..YARN };
    let mscale = YarnScaling { mscale: Some(0.5), mscale_all_dim: Some(1.0), ..YARN };
    let scalings = [
        SCALING,
        RopeScaling::Linear { factor: 2.0 },
        RopeScaling::Dynamic { factor: 2.5 },
        RopeScaling::Yarn(YARN),
        RopeScaling::Yarn(yarn),
        RopeScaling::Yarn(mscale),
    ];
    for (architecture, attention_bias, sliding_window) in [
        (Architecture::Llama, false, None),
        (Architecture::Llama, true, None),
        (Architecture::Qwen2, false, None),
        (Architecture::Qwen3, true, None),
        (Architecture::Mistral, false, None),
        (Architecture::Mistral, false, Some(512)),
    ] {
        for rope_scaling in scalings.map(Some).into_iter().chain([None]) {
            let model = ModelConfig { rope_scaling, attention_bias, sliding_window, ..base(architecture) };
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
fn absent_fields_have_transformers_defaults() {
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
    let both = parse(
        r#"{"rope_theta":3.0,"rope_scaling":{"type":"linear","factor":2},
        "rope_parameters":{"rope_type":"linear","factor":2.0,"rope_theta":3}}"#,
    );
    assert_eq!(both.unwrap().model.rope_scaling, Some(RopeScaling::Linear { factor: 2.0 }));
    let yarn = r#"{"max_position_embeddings":128,"rope_scaling":{"type":"yarn","factor":4.0}}"#;
    assert_eq!(parse(yarn).unwrap().model.rope_scaling, Some(RopeScaling::Yarn(YARN)));
    let t = parse(r#"{"bos_token_id":1,"eos_token_id":[2,3],"pad_token_id":-1}"#).unwrap().tokens;
    assert_eq!(t, SpecialTokens { bos: Some(1), eos: vec![2, 3], pad: None });
    assert_eq!(parse(r#"{"attention_dropout":0.1,"eos_token_id":300}"#).unwrap().notices.len(), 2);
    assert!(
        hf_config::parse("\u{feff}{\r\n\"model_type\":\"llama\"}".as_bytes()).unwrap_err().to_string().contains("hidden_size")
    );
}

#[test]
fn sliding_windows_above_the_context_are_accepted() {
    let mistral = |more: &str| parse(&format!(r#"{{"architectures":["MistralForCausalLM"],"num_attention_heads":8{more}}}"#));
    let m = mistral("").unwrap();
    assert_eq!((m.model.num_key_value_heads, m.model.max_position_embeddings, m.model.sliding_window), (8, 131_072, Some(4096)));
    assert!(m.notices[0].contains("more than 4096 tokens at once are refused: sliding_window = 4096"), "{:?}", m.notices);
    let m = mistral(r#","sliding_window":null,"num_key_value_heads":null"#).unwrap();
    assert_eq!((m.model.num_key_value_heads, m.model.sliding_window, m.notices.len()), (8, None, 0));
    let dynamic = mistral(r#","sliding_window":64,"max_position_embeddings":60,"rope_scaling":{"type":"dynamic","factor":2.0}"#);
    assert_eq!(dynamic.unwrap().model.exact_context().unwrap().0, 60);
    for qwen in ["Qwen2", "Qwen3"] {
        let qwen = |more: &str| {
            parse(&format!(
                r#"{{"architectures":["{qwen}ForCausalLM"],"num_key_value_heads":2,"use_sliding_window":true{more}}}"#
            ))
        };
        let full = r#","sliding_window":8,"layer_types":["full_attention","full_attention"],"max_window_layers":0"#;
        for more in ["", r#","max_window_layers":2"#, r#","sliding_window":null,"max_window_layers":0"#, full] {
            let model = qwen(more).unwrap().model;
            assert_eq!((model.sliding_window, model.exact_context()), (None, None), "{more}");
        }
    }
}

#[test]
fn unsupported_context_settings_are_refused() {
    let device = Device::open_named(Some("cpu")).unwrap();
    let open = |model: ModelConfig, context| Model::new(&device, &model, context).map(drop).map_err(|e| e.to_string());
    let mistral = ModelConfig { sliding_window: Some(100), ..base(Architecture::Mistral) };
    let dynamic = ModelConfig { rope_scaling: Some(RopeScaling::Dynamic { factor: 2.0 }), ..base(Architecture::Llama) };
    assert_eq!((open(mistral.clone(), 100), open(dynamic.clone(), 512)), (Ok(()), Ok(())));
    let text = open(mistral, 101).unwrap_err();
    assert!(text.contains("101 tokens") && text.contains("at most 100") && text.contains("sliding_window = 100"), "{text}");
    let text = open(dynamic, 513).unwrap_err();
    assert!(text.contains("at most 512") && text.contains("rope_type = \"dynamic\""), "{text}");
}

#[test]
// Length: one table.
fn what_lehr_does_not_build_is_refused_by_name() {
    for (change, parts) in [
        (r#"{"mlp_bias":true}"#, ["mlp_bias = true", "SwiGLU"]),
        (r#"{"hidden_act":"gelu\u001b"}"#, ["hidden_act = \"gelu\\u001b\"", "silu"]),
        (
            r#"{"architectures":["Qwen2ForCausalLM"],"use_sliding_window":true,"max_window_layers":1}"#,
            ["use_sliding_window = true", "max_window_layers = 1"],
        ),
        (r#"{"layer_types":["full_attention"]}"#, ["layer_types has 1 entries", "num_hidden_layers = 2"]),
        (
            r#"{"architectures":["MistralForCausalLM"],"layer_types":["full_attention","full_attention"]}"#,
            ["layer_types", "Ministral"],
        ),
        (
            r#"{"architectures":["MistralForCausalLM"],"num_key_value_heads":4,"sliding_window":0}"#,
            ["sliding_window = 0", "null"],
        ),
        (r#"{"model_type":"qwen2"}"#, ["model_type = \"qwen2\"", "contradict"]),
        (r#"{"layer_types":["full_attention","sliding_attention"]}"#, ["layer_types", "full_attention"]),
        (r#"{"partial_rotary_factor":0.5}"#, ["partial_rotary_factor = 0.5", "whole heads"]),
        (r#"{"quantization_config":{"bits":4}}"#, ["quantization_config", "unquantised"]),
        (r#"{"rope_scaling":{"type":"longrope","factor":2.0}}"#, ["rope_scaling.rope_type = \"longrope\"", "llama3"]),
        (r#"{"rope_parameters":{"rope_type":null}}"#, ["rope_parameters.rope_type = null", "yarn"]),
        (
            r#"{"rope_scaling":{"rope_type":"yarn","type":"linear","factor":2.0}}"#,
            ["rope_scaling.type = \"linear\"", "contradict"],
        ),
        (
            r#"{"rope_scaling":{"rope_type":"yarn","factor":4.0},"rope_parameters":{"rope_type":"default","rope_theta":10000.0}}"#,
            ["contradict", "rope_type is \"yarn\" in rope_scaling, \"default\" in rope_parameters"],
        ),
        (
            r#"{"rope_scaling":{"rope_type":"linear","factor":4.0},"rope_parameters":{"rope_type":"linear","factor":2.0}}"#,
            ["contradict", "factor is 4.0 in rope_scaling, 2.0 in rope_parameters"],
        ),
        (
            r#"{"rope_scaling":{"rope_type":"default"},"rope_parameters":{"rope_type":"default","rope_theta":1e6}}"#,
            ["rope_theta is 10000.0 in rope_scaling, 1000000.0 in rope_parameters", "without rope_theta"],
        ),
        (
            r#"{"rope_theta":5.0,"rope_parameters":{"rope_type":"default","rope_theta":6.0}}"#,
            ["rope_theta = 5, but rope_parameters.rope_theta = 6", "contradict"],
        ),
        (
            r#"{"original_max_position_embeddings":64,
                "rope_scaling":{"type":"yarn","factor":4.0,"original_max_position_embeddings":32}}"#,
            ["original_max_position_embeddings = 64, but rope_scaling.original_max_position_embeddings = 32", "contradict"],
        ),
        (r#"{"rope_scaling":{"type":"yarn"}}"#, ["rope_scaling.factor", "missing"]),
        (r#"{"rope_scaling":{"type":"yarn","factor":4,"truncate":1}}"#, ["rope_scaling.truncate = 1", "true or false"]),
        (r#"{"rope_scaling":{"type":"yarn","factor":4,"beta_fast":"x"}}"#, ["rope_scaling.beta_fast = \"x\"", "number"]),
        (r#"{"rope_scaling":{"type":"yarn","factor":4,"attention_factor":0}}"#, ["rope_scaling.attention_factor = 0", "above 0"]),
        (r#"{"rope_theta":1,"rope_scaling":{"type":"yarn","factor":4}}"#, ["rope_theta = 1", "logarithm"]),
        (
            r#"{"rope_scaling":{"type":"yarn","factor":4,"partial_rotary_factor":0.5}}"#,
            ["rope_scaling.partial_rotary_factor = 0.5", "whole heads"],
        ),
        (r#"{"rope_parameters":{"full_attention":{"rope_type":"default"}}}"#, ["rope_parameters", "each kind of layer"]),
        (r#"{"rope_scaling":{"rope_type":"llama3","factor":2.0}}"#, ["low_freq_factor", "missing"]),
        (r#"{"rope_scaling":7}"#, ["rope_scaling = 7", "object"]),
        (
            r#"{"architectures":["GPT2LMHeadModel"]}"#,
            ["GPT2LMHeadModel", "LlamaForCausalLM, MistralForCausalLM, Qwen2ForCausalLM and Qwen3ForCausalLM"],
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
fn malformed_configs_are_refused_with_the_file() {
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
        let text = format!("{:#}", hf_config::read(&RealFs, &path).unwrap_err());
        assert!(text.contains("config.json") && text.contains(part), "'{part}' is not in: {text}");
    }
    let text = format!("{:#}", hf_config::read(&RealFs, &dir.path().join("none.json")).unwrap_err());
    assert!(text.contains("none.json"), "{text}");
}
