//! Special tokens that a tokenizer's post-processor puts around a text (Llama's begin token), and texts in pieces.

use super::{BuiltinTokenizer, END_OF_TEXT, Tokenizer, WordMemory, guarded};
use crate::data::{Corpus, Notices, display_text};
use anyhow::{Result, anyhow};

/// Special tokens around every text.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct TextFrame {
    pub(crate) begin: Vec<u32>,
    pub(crate) end: Vec<u32>,
}

impl Tokenizer {
    /// The ids of a whole text, as in `transformers`: with the special tokens of the post-processor.
    ///
    /// # Errors
    /// As [`Tokenizer::encode`].
    pub fn encode_text(&self, text: &str) -> Result<Vec<u32>> {
        match self.direct {
            BuiltinTokenizer::Off => Ok(self.encode_by_crate(text, true)?.get_ids().to_vec()),
            _ => self.encode(text),
        }
    }

    /// The ids of a prompt. Text from a chat template (`chat`) already has its begin token. If there are no tokens, the prompt is the begin
    /// token, or else the end-of-text token.
    ///
    /// # Errors
    /// As [`Tokenizer::encode`].
    pub fn encode_prompt(&self, text: &str, chat: bool) -> Result<Vec<u32>> {
        let mut ids = if chat { self.encode(text)? } else { self.encode_text(text)? };
        if ids.is_empty() {
            ids.extend(self.bos.or(self.eos));
        }
        Ok(ids)
    }

    /// Warns if the text contains the end-of-text marker but this built-in tokenizer has no such token.
    pub(in crate::data) fn check_marker<'c, 'a: 'c>(
        &self,
        corpora: impl IntoIterator<Item = &'c Corpus<'a>>,
        notices: &mut Notices,
    ) -> Result<()> {
        if !self.is_table() || self.eos.is_some() {
            return Ok(());
        }
        for corpus in corpora {
            if corpus.contains(END_OF_TEXT, notices)? {
                notices.push(format!(
                    "the text holds {END_OF_TEXT}, which is not a token of this model: it is read as characters and ends no document"
                ));
            }
        }
        Ok(())
    }

    /// Everything that the ids of a text depend on, always the same bytes: usable as a cache key.
    ///
    /// # Errors
    /// None are known.
    pub(crate) fn rules(&self) -> Result<Vec<u8>> {
        let mut rules = serde_json::to_vec(&*self.inner)?;
        if self.inner.get_encode_special_tokens() {
            rules.extend(b"split_special_tokens");
        }
        Ok(rules)
    }

    /// The tokens that [`Self::encode_text`] adds before and after a text.
    pub(crate) fn frame(&self) -> Result<TextFrame> {
        if !matches!(self.direct, BuiltinTokenizer::Off) {
            return Ok(TextFrame::default());
        }
        // A tokenizer without a token for this letter may still encode an empty text.
        let encoding = self.encode_by_crate("a", true).or_else(|_| self.encode_by_crate("", true))?;
        let (ids, added) = (encoding.get_ids(), encoding.get_special_tokens_mask());
        let own = |at: &usize| added[*at] == 0;
        let first = (0..ids.len()).find(own).unwrap_or(ids.len());
        let last = (first..ids.len()).rev().find(own).map_or(first, |last| last + 1);
        Ok(TextFrame { begin: ids[..first].to_vec(), end: ids[last..].to_vec() })
    }

    /// As [`Self::encode_into`], for a piece of a text that follows the character `before`.
    ///
    /// Some tokenizers put a mark at the start of every text (Metaspace), or merge across the cut; for these the character is encoded too,
    /// and its tokens are removed.
    pub(in crate::data) fn encode_piece(
        &self,
        before: Option<char>,
        text: &str,
        ids: &mut Vec<u32>,
        memory: &mut WordMemory,
    ) -> Result<()> {
        let Some(before) =
            before.filter(|_| matches!(self.direct, BuiltinTokenizer::Off) && !text.is_empty() && !self.cuts_cleanly())
        else {
            return self.encode_into(text, ids, memory);
        };
        let whole = format!("{before}{text}");
        let encoding = guarded(|| self.inner.encode(whole.as_str(), false))
            .map_err(|e| anyhow!("tokenizer: cannot encode {:?}: {}", display_text(text), display_text(&e)))?;
        let cut = before.len_utf8();
        let places = encoding.get_offsets();
        if places.iter().any(|(start, end)| *start < cut && *end > cut) {
            return self.encode_into(text, ids, memory);
        }
        let behind = encoding.get_ids().iter().zip(places).filter(|(_, (_, end))| *end > cut);
        ids.extend(behind.map(|(id, _)| *id));
        Ok(())
    }

    /// Whether the tokens of two pieces, cut as the text reader cuts, are those of the whole text.
    fn cuts_cleanly(&self) -> bool {
        let parts = |parts: &[&str]| parts.iter().map(|part| self.encode(part).ok()).collect::<Option<Vec<_>>>();
        [["a\n", "b"], ["a", " b"]].iter().all(|cut| match (parts(cut), self.encode(&cut.concat())) {
            (Some(parts), Ok(whole)) => parts.concat() == whole,
            _ => false,
        })
    }
}
