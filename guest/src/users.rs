//! Users by name, as an image names them: `USER`, `USER:GROUP`, each a name or a number, looked up
//! in the container's own `/etc/passwd` and `/etc/group` (passwd(5), group(5)). The rules are
//! Docker's (moby `user.GetExecUser`): a number needs no entry, a user without a group has that of
//! his entry, or 0, and the groups that list him.

use std::fs;

use crate::error::{Error, Result};
use crate::spec::User;

/// Puts a user in the place of the one that was written.
pub(crate) fn take(user: &mut User, wanted: &str) -> Result<()> {
    let read =
        |path: &str| String::from_utf8_lossy(&fs::read(path).unwrap_or_default()).into_owned();
    find(user, wanted, &read("/etc/passwd"), &read("/etc/group"))
}

fn find(user: &mut User, wanted: &str, passwd: &str, group: &str) -> Result<()> {
    let (name, group_name) = match wanted.split_once(':') {
        Some((name, group)) => (name, Some(group)),
        None => (wanted, None),
    };
    let rows = |table: &str| -> Vec<Vec<String>> {
        let row = |line: &str| line.split(':').map(str::to_owned).collect();
        table.lines().map(row).collect()
    };
    let number = |text: &str| text.parse::<u32>().ok();
    let (users, groups) = (rows(passwd), rows(group));
    let is_it = |row: &&Vec<String>, wanted: &str| {
        row.len() >= 3
            && (row[0] == wanted || number(wanted).is_some_and(|id| number(&row[2]) == Some(id)))
    };
    let entry = users.iter().find(|row| is_it(row, name));
    user.uid = match entry
        .and_then(|row| number(&row[2]))
        .or_else(|| number(name))
    {
        Some(uid) => uid,
        None => {
            return Err(Error::new(format!(
                "there is no user {name} in /etc/passwd"
            )));
        }
    };
    let own = entry.and_then(|row| number(row.get(3)?)).unwrap_or(0);
    user.gid = match group_name {
        None => own,
        Some(wanted) => {
            let entry = groups.iter().find(|row| is_it(row, wanted));
            let gid = entry
                .and_then(|row| number(&row[2]))
                .or_else(|| number(wanted));
            gid.ok_or_else(|| Error::new(format!("there is no group {wanted} in /etc/group")))?
        }
    };
    if let (Some(entry), None) = (entry, group_name) {
        let lists = |row: &&Vec<String>| {
            row.len() >= 4 && row[3].split(',').any(|member| member == entry[0])
        };
        let listed = groups.iter().filter(lists);
        user.additional_gids = listed.filter_map(|row| number(&row[2])).collect();
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const PASSWD: &str = "root:x:0:0::/root:/bin/sh\nbroken\nweb:x:33:33::/var/www:/bin/sh\n";
    const GROUP: &str = "root:x:0:\nwww:x:33:\nssl:x:104:web,other\nshort:x\n";

    fn of(wanted: &str) -> Result<(u32, u32, Vec<u32>)> {
        let mut user = User::default();
        find(&mut user, wanted, PASSWD, GROUP)?;
        Ok((user.uid, user.gid, user.additional_gids))
    }

    #[test]
    fn names_and_numbers() {
        assert_eq!(of("web").unwrap(), (33, 33, vec![104]));
        assert_eq!(of("33").unwrap(), (33, 33, vec![104]));
        assert_eq!(of("web:ssl").unwrap(), (33, 104, vec![]));
        assert_eq!(of("1000").unwrap(), (1000, 0, vec![]));
        assert_eq!(of("1000:1001").unwrap(), (1000, 1001, vec![]));
        assert!(of("nobody").unwrap_err().to_string().contains("nobody"));
        assert!(of("web:none").is_err());
    }

    proptest! {
        #[test]
        fn any_tables_are_fine(wanted: String, passwd: String, group: String) {
            let _ = find(&mut User::default(), &wanted, &passwd, &group);
        }
    }
}
