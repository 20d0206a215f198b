//! Who listens at a port of this machine, from /proc.

use std::fmt;

use crate::id::clean;
use crate::topology::SysRoot;

/// A process that listens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listener {
    pub pid: u32,
    pub name: String,
}

impl fmt::Display for Listener {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} (process {})", clean(&self.name), self.pid)
    }
}

/// The process that listens on a TCP port; `None` when it is another user's, whose sockets /proc does not show.
pub fn who_listens(root: &SysRoot, port: u16) -> Option<Listener> {
    let sockets: Vec<String> = ["/proc/net/tcp", "/proc/net/tcp6"]
        .iter()
        .flat_map(|f| listening(&root.read(f).unwrap_or_default(), port))
        .collect();
    if sockets.is_empty() {
        return None;
    }
    for pid in root.list("/proc").iter().filter_map(|p| p.parse::<u32>().ok()) {
        let folder = format!("/proc/{pid}/fd");
        let holds = |fd: &String| root.link(format!("{folder}/{fd}")).is_some_and(|to| sockets.contains(&to));
        if root.list(&folder).iter().any(holds) {
            return Some(Listener { pid, name: root.read(format!("/proc/{pid}/comm")).unwrap_or_default() });
        }
    }
    None
}

/// `socket:[INODE]` of the sockets that listen on a port, from a table of the kernel.
fn listening(table: &str, port: u16) -> Vec<String> {
    let row = |line: &str| {
        let mut fields = line.split_whitespace();
        let local = fields.nth(1)?;
        let at = u16::from_str_radix(local.rsplit(':').next()?, 16).ok()?;
        // State 0A is LISTEN; the inode is the tenth field.
        let listens = fields.nth(1)? == "0A";
        (listens && at == port).then(|| Some(format!("socket:[{}]", fields.nth(5)?)))?
    };
    table.lines().skip(1).filter_map(row).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_process_is_found_by_its_port() -> std::io::Result<()> {
        let listener = std::net::TcpListener::bind(("127.0.0.1", 0))?;
        let found = who_listens(&SysRoot::live(), listener.local_addr()?.port());
        assert_eq!(found.map(|l| l.pid), Some(std::process::id()));
        assert_eq!(listening("head\n junk\n 0: x:y z 0A", 1), Vec::<String>::new());
        Ok(())
    }
}
