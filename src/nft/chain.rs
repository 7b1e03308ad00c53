//! Chains, with where they hang and what they say.

use super::expr::Rule;
use std::borrow::Cow;

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hook {
    pub kind: &'static str,
    /// `enum nf_inet_hooks`
    pub number: u32,
    pub priority: i32,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ChainDefinition {
    pub name: Cow<'static, str>,
    pub hook: Option<Hook>,
    pub rules: Vec<Rule>,
}

impl ChainDefinition {
    pub fn new(name: impl Into<Cow<'static, str>>, rules: Vec<Rule>) -> Self {
        Self { name: name.into(), hook: None, rules }
    }

    pub fn hooked(name: &'static str, hook: Hook, rules: Vec<Rule>) -> Self {
        Self { name: name.into(), hook: Some(hook), rules }
    }

    pub fn fingerprints(&self) -> Vec<u64> {
        self.rules.iter().map(Rule::fingerprint).collect()
    }
}
