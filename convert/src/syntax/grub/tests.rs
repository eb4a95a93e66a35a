// SPDX-License-Identifier: Apache-2.0
//! Scripts as grub-mkconfig writes them, and such as it never would.

use super::*;

fn shown(word: &Word) -> String {
    let part = |part: &Part| match part {
        Part::Text(text) => text.clone(),
        Part::Variable(name) => format!("<{name}>"),
        Part::QuotedVariable(name) => format!("<<{name}>>"),
    };
    word.parts.iter().map(part).collect()
}

#[test]
fn words_lose_quotes_and_keep_variables() {
    let text = "linux\t/boot/vm\\ linuz root=UUID=1 'single $x \\' \"double $x ${y z}\\$\" pre${a}post $1 $? \"\" a'b'\"c\" \\\n  next # comment\n";
    let script = parse(text);
    assert!(!script.incomplete);
    let commands = script.simple();
    assert_eq!(commands.len(), 1, "{commands:#?}");
    let words: Vec<String> = commands[0].words.iter().map(shown).collect();
    assert_eq!(
        words,
        [
            "linux",
            "/boot/vm linuz",
            "root=UUID=1",
            "single $x \\",
            "double <<x>> <<y z>>$",
            "pre<a>post",
            "<1>",
            "<?>",
            "",
            "abc",
            "next"
        ]
    );
    for word in &commands[0].words {
        assert!(!text[word.range.clone()].contains('\n'));
    }
    assert_eq!(&text[commands[0].words[2].range.clone()], "root=UUID=1");
    assert_eq!(commands[0].words[10].line, 2);
}

#[test]
fn blocks_conditions_loops_and_functions_are_nested_as_they_stand() {
    let text = "function load { insmod a; insmod b\n}\nif [ -s $prefix/grubenv ]; then\n  load_env\nelif true; then x\nelse\n  y; fi\n\
        for i in 1 2 3; do echo $i; done\nwhile true; do z; done\n\
        submenu 'More' --id more {\n\tmenuentry \"One\" --class os {\n\t\tlinux /v\n\t}\n\tmenuentry two { linux /w; }\n}\nlast\n";
    let script = parse(text);
    assert!(!script.incomplete, "{script:#?}");
    let names: Vec<(String, (usize, usize))> =
        script.simple().iter().map(|command| (shown(&command.words[0]), command.lines)).collect();
    let names: Vec<(&str, (usize, usize))> =
        names.iter().map(|(name, lines)| (name.as_str(), *lines)).collect();
    assert_eq!(
        names,
        [
            ("insmod", (1, 1)),
            ("insmod", (1, 1)),
            ("[", (3, 3)),
            ("load_env", (4, 4)),
            ("true", (5, 5)),
            ("x", (5, 5)),
            ("y", (7, 7)),
            ("echo", (8, 8)),
            ("true", (9, 9)),
            ("z", (9, 9)),
            ("submenu", (10, 15)),
            ("menuentry", (11, 13)),
            ("linux", (12, 12)),
            ("menuentry", (14, 14)),
            ("linux", (14, 14)),
            ("last", (16, 16)),
        ]
    );
    let Some(Command::If(branches, otherwise)) = script.block.commands.get(1) else { panic!("{script:#?}") };
    assert_eq!((branches.len(), otherwise.commands.len()), (2, 1));
}

#[test]
fn a_script_that_breaks_off_is_read_as_far_as_it_goes() {
    for text in [
        "menuentry 'x' {",
        "menuentry 'x",
        "if true; then",
        "fi",
        "}}}}",
        "{",
        "for",
        "function",
        "while do done done",
        "linux ${unclosed\nnext",
        "a && b || c > d",
        "\\",
        "$",
    ] {
        parse(text).simple();
    }
    let deep = "if true; then\n".repeat(5000) + "linux /v\n" + &"fi\n".repeat(5000);
    assert!(parse(&deep).incomplete);
    let deep = "submenu a {\n".repeat(5000);
    assert!(parse(&deep).incomplete);
    assert_eq!(parse("linux a\n}\nlinux b").simple().len(), 2);
}

#[test]
fn the_environment_block_is_read_as_grub_editenv_lists_it() {
    let mut text = String::from(
        "# GRUB Environment Block\n# WARNING: Do not edit\nsaved_entry=a\\\\b\nkernelopts=root=UUID=1 ro quiet \nempty=\n",
    );
    let padding = 1024 - text.len();
    text.push_str(&"#".repeat(padding));
    let found = env::parse(&text).unwrap();
    let values: Vec<(&str, &str)> =
        found.iter().map(|variable| (variable.name.as_str(), variable.value.as_str())).collect();
    assert_eq!(values, [("saved_entry", "a\\b"), ("kernelopts", "root=UUID=1 ro quiet "), ("empty", "")]);
    assert_eq!(&text[found[1].range.clone()], "root=UUID=1 ro quiet ");
    assert_eq!(env::parse("saved_entry=x\n"), None);
}
