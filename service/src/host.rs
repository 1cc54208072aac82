//! What the service is given.
use crate::config::Selector;

/// What the service needs of the program that it is part of.
pub trait Host: Send + Sync {
    /// The process that a selector means: one, or the words why it is none.
    ///
    /// # Errors
    /// None, or several.
    fn find(&self, selector: &Selector) -> Result<i32, String>;

    /// Reads a size or a rate, such as `64MiB`.
    ///
    /// # Errors
    /// What is wrong with the text.
    fn bytes(&self, text: &str) -> Result<u64, String>;
}
