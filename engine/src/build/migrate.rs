//! Looks at a description that was made for LinuxKit, without building it or asking the network.

use std::borrow::Cow;

use super::packages::Packages;
use super::{BuildError, Description, Request, plan};
use crate::event::Silent;
use crate::lockfile::Lock;
use crate::spec::migrate::{Finding, find};
use crate::spec::{Section, Spec, SpecError, SpecErrors, Warning};
use crate::system::container::ImageConfig;
use crate::system::ids::Ids;
use crate::system::label;
use crate::system::volumes::Volumes;

/// What there is to say about a description.
#[derive(Debug, Clone, Default)]
pub struct Migration {
    /// What must be changed, sorted by place; empty when it builds as it is.
    pub errors: Vec<SpecError>,
    /// What is accepted, but probably not meant.
    pub warnings: Vec<Warning>,
    /// Where it touches a difference between LinuxKit and kiln, by difference, then by place.
    pub findings: Vec<Finding>,
}

/// Checks the descriptions of a request as far as they alone can tell: what images say in their
/// labels is not known here.
///
/// # Errors
/// When a description or a file that it names cannot be read. Mistakes in it are no error.
pub fn migrate(request: &Request) -> Result<Migration, BuildError> {
    let mut texts: Vec<Cow<'_, [u8]>> = Vec::new();
    for description in &request.descriptions {
        texts.push(description.bytes()?.0);
    }
    let names: Vec<_> = request.descriptions.iter().map(Description::name).collect();
    let texts = || texts.iter().map(|bytes| &**bytes);
    let mut migration = Migration {
        findings: find(names.iter().map(|name| &**name).zip(texts())),
        ..Migration::default()
    };
    let texts = request.descriptions.iter().zip(texts());
    match parse(texts, &mut migration.errors)? {
        None => {}
        Some(Err(errors)) => migration.errors.extend_from_slice(errors.errors()),
        Some(Ok(spec)) => migration.check(&spec, request)?,
    }
    migration.errors.sort();
    migration.errors.dedup();
    Ok(migration)
}

/// Merges the descriptions; `None` when one of them has errors, which are added.
fn parse<'a>(
    texts: impl Iterator<Item = (&'a Description, &'a [u8])>,
    errors: &mut Vec<SpecError>,
) -> Result<Option<Result<Spec, SpecErrors>>, BuildError> {
    let mut specs = Vec::new();
    let mut packages = Packages::default();
    for (description, bytes) in texts {
        match description.parse(bytes, &mut packages)? {
            Ok(spec) => specs.push(spec),
            Err(found) => errors.extend_from_slice(found.errors()),
        }
    }
    if !errors.is_empty() {
        return Ok(None);
    }
    let mut whole = Spec::default();
    for spec in specs {
        if let Err(errors) = whole.append(spec) {
            return Ok(Some(Err(errors)));
        }
    }
    Ok(Some(Ok(whole)))
}

impl Migration {
    /// Does what a build would, up to the first question to a registry.
    fn check(&mut self, spec: &Spec, request: &Request) -> Result<(), BuildError> {
        self.warnings.extend(spec.warnings.iter().cloned());
        let (ids, volumes) = (Ids::assign(spec), Volumes::of(spec));
        for container in Section::ALL.iter().flat_map(|it| spec.containers(*it)) {
            match label::resolve(container, &ImageConfig::default(), &ids, &volumes) {
                Ok((_, warnings)) => self.warnings.extend(warnings),
                Err(errors) => self.errors.extend_from_slice(errors.errors()),
            }
        }
        // Its warnings are the description's, which are there already.
        match plan::plan_with(request, &Silent, &Lock::default()) {
            Ok(_) => Ok(()),
            Err(BuildError::Spec(errors)) => {
                self.errors.extend(errors);
                Ok(())
            }
            Err(error) => Err(error),
        }
    }
}
