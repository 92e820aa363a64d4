//! The table of forms, read from FORMS.md.

/// Each of a form's variants: `a<b/c>d` is `abd` and `acd`.
pub fn expand(form: &str) -> Vec<String> {
    let Some(start) = form.find('<') else { return vec![form.to_string()] };
    let end = start + form[start..].find('>').expect("an alternative ends");
    let tails = expand(&form[end + 1..]);
    let parts = form[start + 1..end].split('/');
    parts.flat_map(|part| tails.iter().map(move |tail| format!("{}{part}{tail}", &form[..start]))).collect()
}

/// One list of FORMS.md.
#[allow(dead_code)] // two tests read it, each its own part
pub struct List {
    /// The heading above it.
    pub heading: String,
    /// The file that tests its forms.
    pub file: Option<String>,
    /// The conformance program that runs every one of them.
    pub program: Option<String>,
    /// The forms as written.
    pub forms: Vec<String>,
}

/// All lists of FORMS.md.
pub fn lists() -> Vec<List> {
    let text = include_str!("../FORMS.md");
    let (mut heading, mut file, mut program, mut lists) = (String::new(), None, None, Vec::new());
    let mut lines = text.lines();
    while let Some(line) = lines.next() {
        if let Some(title) = line.strip_prefix("## ") {
            (heading, file, program) = (title.to_string(), None, None);
        } else if let Some(names) = line.strip_prefix("Tested in `") {
            let mut names = names.split('`');
            file = names.next().map(str::to_string);
            program = names.nth(1).map(str::to_string);
        } else if line == "```ptx" {
            let forms = lines.by_ref().take_while(|line| *line != "```").map(str::to_string).collect();
            lists.push(List { heading: heading.clone(), file: file.clone(), program: program.clone(), forms });
        }
    }
    lists
}

/// Every form of the lists that name a conformance program.
#[allow(dead_code)] // the test of the table itself runs no program
pub fn forms_of(program: &str) -> Vec<String> {
    let lists = lists().into_iter().filter(|list| list.program.as_deref() == Some(program));
    lists.flat_map(|list| list.forms).flat_map(|form| expand(&form)).collect()
}
