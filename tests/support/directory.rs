//! Where a case's objects are put for vipd to find them: most cases have a directory that it follows.
//!
//! In: objects. Out: YAML files, each put in place by a rename.
//! Never: a half-written file that vipd could see.

use super::manifests::File;
use serde_json::Value;
use std::fs;
use std::path::{Path, PathBuf};

/// What vipd learns of objects from.
pub trait Objects {
    /// Makes them, or changes them to this.
    fn put(&self, file: &File);
    fn remove(&self, file: &File);
    /// The arguments of `vipd run` that name it.
    fn arguments(&self) -> Vec<String>;
}

/// The directory that vipd reads.
pub struct Directory {
    path: PathBuf,
    staging: PathBuf,
}

impl Directory {
    pub fn make(parent: &Path) -> Directory {
        let directory =
            Directory { path: parent.join("manifests"), staging: parent.join("staging") };
        for path in [&directory.path, &directory.staging] {
            fs::create_dir_all(path).expect("an own /run");
        }
        directory
    }
}

impl Objects for Directory {
    fn put(&self, file: &File) {
        let text: String =
            file.objects.iter().map(|object| format!("---\n{}", yaml(object))).collect();
        let staged = self.staging.join(&file.name);
        fs::write(&staged, text).expect("an own /run");
        fs::rename(&staged, self.path.join(&file.name)).expect("an own /run");
    }

    fn remove(&self, file: &File) {
        fs::remove_file(self.path.join(&file.name)).expect("the file was put before");
    }

    fn arguments(&self) -> Vec<String> {
        vec!["--manifests".to_owned(), self.path.display().to_string()]
    }
}

/// YAML in block style, as people write it.
pub fn yaml(value: &Value) -> String {
    let mut text = String::new();
    block(value, 0, &mut text);
    text
}

fn block(value: &Value, indent: usize, text: &mut String) {
    let pad = " ".repeat(indent);
    let mut put = |head: String, value: &Value| {
        let flat = match value {
            Value::Object(map) => map.is_empty(),
            Value::Array(list) => list.is_empty(),
            _ => true,
        };
        if flat {
            // Scalars and empty collections read the same in JSON and YAML.
            text.push_str(&format!("{pad}{head} {value}\n"));
        } else {
            text.push_str(&format!("{pad}{head}\n"));
            block(value, indent + 2, text);
        }
    };
    match value {
        Value::Object(map) => map.iter().for_each(|(key, value)| put(format!("{key}:"), value)),
        Value::Array(list) => list.iter().for_each(|value| put("-".to_owned(), value)),
        scalar => put(String::new(), scalar),
    }
}
