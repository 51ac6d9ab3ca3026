//! The template of a tag: text with `{{.Hash}}` in it.
//!
//! LinuxKit hands it to Go's `text/template` with one value, `.Hash`; that value is all that is
//! known here, everything else between braces is an error.

use crate::spec::nearest;

/// A tag is at most this long (distribution specification), so a template of it is not much longer.
const TEMPLATE_MAX_BYTES: usize = 4096;

/// Fills the hash in; an empty template is the hash alone.
pub(super) fn render(template: &str, hash: &str) -> Result<String, String> {
    if template.is_empty() {
        return Ok(hash.to_owned());
    }
    if template.len() > TEMPLATE_MAX_BYTES {
        return Err(format!(
            "the tag's template is longer than {TEMPLATE_MAX_BYTES} bytes"
        ));
    }
    let mut rendered = String::new();
    let mut rest = template;
    while let Some((before, after)) = rest.split_once("{{") {
        let Some((action, after)) = after.split_once("}}") else {
            return Err(format!(
                "the tag's template \"{template}\" has no }}}} to its {{{{"
            ));
        };
        let action = action.trim();
        if action != ".Hash" {
            let meant = match nearest(action, &[".Hash"]) {
                Some(_) => "did you mean",
                None => "all there is is",
            };
            return Err(format!(
                "the tag's template \"{template}\" asks for {{{{{action}}}}}; {meant} {{{{.Hash}}}}"
            ));
        }
        rendered += before;
        rendered += hash;
        rest = after;
    }
    Ok(rendered + rest)
}

#[cfg(test)]
mod tests {
    use super::render;

    #[test]
    fn the_hash_is_filled_in() {
        for (template, tag) in [
            ("", "abc"),
            ("{{.Hash}}", "abc"),
            ("v1-{{ .Hash }}-{{.Hash}}", "v1-abc-abc"),
            ("1.0", "1.0"),
            ("{.Hash}", "{.Hash}"),
        ] {
            assert_eq!(render(template, "abc").unwrap(), tag, "{template}");
        }
        assert_eq!(render("v{{.Hash}}", "").unwrap(), "v");
        for (template, reason) in [
            ("{{.hash}}", "did you mean {{.Hash}}"),
            ("{{.Tag}}", "all there is is {{.Hash}}"),
            ("x{{.Hash}", "has no }}"),
            ("{{}}", "asks for {{}}"),
        ] {
            let error = render(template, "abc").unwrap_err();
            assert!(error.contains(reason), "{error}");
        }
    }
}
