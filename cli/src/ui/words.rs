//! The verb of each kind of step, done and under way.

/// How a kind of step is spoken of.
pub(crate) struct Words {
    /// Past tense, capitalised: `Unpacked`.
    pub(crate) done: &'static str,
    /// Present participle, capitalised: `Unpacking`.
    pub(crate) doing: &'static str,
    /// Whether a finished one is worth a line without `-v`.
    pub(crate) notable: bool,
}

/// Returns how a kind of step is spoken of; an unknown kind is shown only with `-v`.
pub(crate) fn of(kind: &str) -> Words {
    let (done, doing, notable) = match kind {
        "resolve" => ("Resolved", "Resolving", true),
        "image" => ("Read", "Reading", false),
        "attestation" => ("Fetched", "Fetching", false),
        "bill" => ("Listed", "Listing", false),
        "directory" => ("Read", "Reading", true),
        "layer" => ("Unpacked", "Unpacking", true),
        "blob" => ("Fetched", "Fetching", true),
        "upload" => ("Uploaded", "Uploading", true),
        "index" => ("Indexed", "Indexing", true),
        "solve" => ("Solved", "Solving", true),
        "package" => ("Unpacked", "Unpacking", true),
        "finish" => ("Configured", "Configuring", false),
        "root" | "stack" => ("Merged", "Merging", false),
        "kernel" => ("Picked", "Picking", false),
        "segment" => ("Packed", "Packing", false),
        "member" => ("Compressed", "Compressing", false),
        "sbom" | "system" => ("Composed", "Composing", false),
        _ => ("Made", "Making", false),
    };
    Words {
        done,
        doing,
        notable,
    }
}
