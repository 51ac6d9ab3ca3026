//! `kiln schema`.

use kiln_engine::spec::schema;

use crate::args::Schema;
use crate::failure::Failure;

pub(super) fn run(arguments: &Schema) -> Result<(), Failure> {
    super::print(&if arguments.label {
        schema::label()
    } else {
        schema::description()
    })
}
