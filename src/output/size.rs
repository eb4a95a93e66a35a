// SPDX-License-Identifier: Apache-2.0
//! Sizes as people write and read them.

/// Binary units with one decimal: `6.6 GiB`.
pub(crate) fn show_size(bytes: u64) -> String {
    const UNITS: [&str; 6] = ["KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];
    if bytes < 1024 {
        return format!("{bytes} B");
    }
    let mut value = bytes as f64;
    let mut unit = "";
    for next in UNITS {
        value /= 1024.0;
        unit = next;
        // What would round to 1024.0 is one of the next unit.
        if value < 1023.95 {
            break;
        }
    }
    format!("{value:.1} {unit}")
}

/// Bytes from `4096`, `64K`, `1.5G`, `2TiB`. All units are binary; `KB` and the like, which could mean either, are refused.
pub(crate) fn parse_size(text: &str) -> Result<u64, String> {
    let digits = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let shift = match unit.trim_start().to_ascii_lowercase().as_str() {
        "" | "b" => 0,
        "k" | "kib" => 10,
        "m" | "mib" => 20,
        "g" | "gib" => 30,
        "t" | "tib" => 40,
        _ => return Err(format!("{text:?} is no size: write 4096, 64K, 10G, 2TiB")),
    };
    if let Ok(whole) = number.parse::<u64>() {
        return whole.checked_mul(1 << shift).ok_or_else(|| format!("{text} is too large"));
    }
    match number.parse::<f64>() {
        Ok(value) if shift > 0 && value * ((1u64 << shift) as f64) < u64::MAX as f64 => {
            Ok((value * (1u64 << shift) as f64) as u64)
        }
        _ => Err(format!("{text:?} is no size: write 4096, 64K, 1.5G, 2TiB")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_binary_with_one_decimal() {
        let shown: Vec<_> =
            [0, 1023, 1024, 1_048_575, 1 << 20, 7_086_696_038, u64::MAX].map(show_size).into();
        assert_eq!(shown, ["0 B", "1023 B", "1.0 KiB", "1.0 MiB", "1.0 MiB", "6.6 GiB", "16.0 EiB"]);
    }

    #[test]
    fn sizes_are_read_as_people_write_them() {
        let good =
            [("4096", 4096), ("64K", 65536), ("2TiB", 2 << 40), ("1.5G", 3 << 29), ("10 MiB", 10 << 20)];
        for (text, bytes) in good {
            assert_eq!(parse_size(text), Ok(bytes), "{text}");
        }
        for text in ["", "K", "10KB", "-5", "1.5", "99999999999T", "1e99G", "."] {
            assert!(parse_size(text).is_err(), "{text}");
        }
    }
}
