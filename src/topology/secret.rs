//! What looks like a secret in a value that is to be recorded. A record is read by many: a value that was set for a library may hold a
//! URL with a password, a token, a key.

/// In place of a secret.
const MASK: &str = "***";
/// Words in a name that say that its value is a secret.
const TELLING: &[&str] =
    &["token", "secret", "key", "password", "passwd", "passphrase", "credential", "auth", "apikey"];
/// A word without meaning of at least so many characters is a key.
const LONG: usize = 24;

/// The text, with what looks like a secret masked.
pub fn mask(text: &str) -> String {
    let separates = |c: char| c.is_whitespace() || ",;&?|\"'".contains(c);
    let (mut out, mut word) = (String::new(), String::new());
    for c in text.chars() {
        if separates(c) {
            out.push_str(&of_word(&word));
            word.clear();
            out.push(c);
        } else {
            word.push(c);
        }
    }
    out + &of_word(&word)
}

fn of_word(word: &str) -> String {
    if let Some((scheme, rest)) = word.split_once("://")
        && let Some((user, place)) = rest.rsplit_once('@')
    {
        let user = user.split(':').next().unwrap_or("");
        return format!("{scheme}://{user}:{MASK}@{place}");
    }
    if let Some((name, value)) = word.split_once(['=', ':'])
        && !value.is_empty()
    {
        let separator = &word[name.len()..=name.len()];
        let lower = name.to_ascii_lowercase();
        let secret = TELLING.iter().any(|t| lower.contains(t));
        let value = if secret { MASK.to_owned() } else { of_word(value) };
        return format!("{name}{separator}{value}");
    }
    if is_key(word) { MASK.to_owned() } else { word.to_owned() }
}

/// Letters and digits in no order, as keys are; no path, no address, no UUID.
fn is_key(word: &str) -> bool {
    let bytes = word.as_bytes();
    let plain = bytes.iter().all(|b| b.is_ascii_alphanumeric() || b"+=_-".contains(b));
    if bytes.len() < LONG || !plain || is_uuid(word) {
        return false;
    }
    let digits = bytes.iter().filter(|b| b.is_ascii_digit()).count();
    // Names have words in them; a key has none longer than luck makes it.
    let longest = word.split(|c: char| !c.is_ascii_lowercase()).map(str::len).max().unwrap_or(0);
    digits >= 2 && longest < 8
}

fn is_uuid(word: &str) -> bool {
    let tail = word.get(word.len().saturating_sub(36)..).unwrap_or("");
    let parts: Vec<&str> = tail.split('-').collect();
    parts.iter().map(|p| p.len()).eq([8, 4, 4, 4, 12]) && parts.concat().bytes().all(|b| b.is_ascii_hexdigit())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_are_masked_and_settings_are_not() {
        for (text, masked) in [
            ("http://me:hunter2@proxy:3128/x", "http://me:***@proxy:3128/x"),
            ("tcp://hunter2@host", "tcp://hunter2:***@host"),
            ("a=1,apikey=hunter2 b", "a=1,apikey=*** b"),
            ("quiet rd.luks.key=hunter2 ro", "quiet rd.luks.key=*** ro"),
            ("x;Auth:hunter2", "x;Auth:***"),
            ("5f4dcc3b5aa765d61d8327deb882cf99", "***"),
            ("ghp_16C7e42F292c6912E7710c838347Ae178B4a", "***"),
            ("id=kR8vZq2LmX0pT5wYb7Nc3d4F", "id=***"),
        ] {
            assert_eq!(mask(text), masked);
        }
        for setting in [
            "",
            "=mlx5_0:1,mlx5_1:1",
            "^docker0,lo",
            "/opt/nccl/topologies/very/long/path/of/a/file-1234567890.xml",
            "rc_mlx5,ud_mlx5,cuda_copy,cuda_ipc",
            "BOOT_IMAGE=/vmlinuz-5.14.0-427.el9.x86_64 root=UUID=0a1b2c3d-1111-2222-3333-444455556666 ro iommu=pt",
            "GPU-8d2a1b2c-1111-2222-3333-444455556666",
            "0000:17:00.0",
            "INIT,NET,GRAPH",
            "transparent_hugepage=never default_hugepagesz=1G hugepages=16",
        ] {
            assert_eq!(mask(setting), setting);
        }
    }

    proptest::proptest! {
        #[test]
        fn no_password_of_a_url_stays(user in "[a-z]{1,8}", password in "[A-Za-z0-9:@/]{4,12}x", host in "[a-z]{1,8}") {
            let masked = mask(&format!("http://{user}:{password}@{host}:80/"));
            proptest::prop_assert!(!masked.contains(&password), "{}", masked);
        }
    }
}
