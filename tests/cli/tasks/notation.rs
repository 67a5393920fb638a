//! The public rows' tuples.

use super::tree::{Tree, solutions};
use lehr::data::tasks::Draws;
use lehr::data::tasks::kk::claim;
use lehr::data::tasks::kk::notation::{parse, print};

#[test]
fn nested_claims_round_trip_and_are_solved() {
    for n in 0..600 {
        let mut draws = Draws::new(1, "notation", n);
        let people = 1 + draws.below(9);
        let trees: Vec<Tree> = (0..people).map(|_| Tree::any(&mut draws, people, (n % 5) as usize)).collect();
        let inside: Vec<String> = trees.iter().map(Tree::to_string).collect();
        let text = if people == 1 { format!("({},)", inside[0]) } else { format!("({})", inside.join(", ")) };
        let claims = parse(&text).unwrap_or_else(|e| panic!("{text}: {e}"));
        assert_eq!(print(&claims), text);
        assert_eq!(claims.iter().map(Tree::of).collect::<Vec<_>>(), trees);
        let found: Vec<Vec<bool>> = claim::solutions(&claims)
            .assignments()
            .into_iter()
            .map(|bits| (0..people).map(|p| bits >> p & 1 == 1).collect())
            .collect();
        assert_eq!(found, solutions(&trees), "{text}");
        assert_eq!(claim::solutions(&claims).count() as usize, found.len());
        // Other ways to write the same.
        let json = text.replace('(', "[").replace(')', "]").replace('\'', "\"").replace(",]", "]");
        assert_eq!(parse(&json).unwrap(), claims, "{json}");
        let loose = text.replace(", ", " ,\n").replace(')', ", )").replace(",, )", ", )");
        assert_eq!(parse(&loose).unwrap(), claims, "{loose}");
    }
}

#[test]
fn nesting_depth_is_limited_only_by_text_length() {
    let depth = 60_000;
    let text = format!("({}('lying', 1){}, ('lying', 0))", "('not', ".repeat(depth), ")".repeat(depth));
    let claims = parse(&text).unwrap();
    assert_eq!(print(&claims), text);
    // An even number of `not`: both say that the other is a knave.
    assert_eq!(claim::solutions(&claims).assignments(), [0b01, 0b10]);
    let error = parse(&format!("({}", "('not', ".repeat(depth))).unwrap_err().to_string();
    assert!(error.contains("expected ( before a claim, found the end"), "{error}");
}

#[test]
fn malformed_claims_are_refused_in_one_line() {
    for (text, says) in [
        ("", "byte 1: expected ( before the first claim, found the end"),
        ("()", "no claims"),
        ("(", "byte 2: expected ( before a claim, found the end"),
        ("('lying', 0)", "byte 2: expected ( before a claim, found 'lying'"),
        ("(('lying', 0)", "byte 14: expected a comma or ), found the end"),
        ("(('lying', 0),) x", "byte 17: 'x' is not part of the notation"),
        ("(('lying', 0),) ()", "byte 17: expected nothing after the last bracket, found ("),
        ("(('lying', 0)('lying', 0))", "byte 14: expected a comma or ), found ("),
        ("(('lying', 1),)", "claim 1: is about person 1, but people are counted from 0 to 0"),
        ("(('lying', 99),)", "byte 12: expected a person, 0 to 15, found 99"),
        ("(('lying', -1),)", "byte 12: '-' is not part of the notation"),
        ("(('lying', 'x'),)", "byte 12: expected a person, 0 to 15, found 'x'"),
        ("(('lying', 0, 1),)", "byte 15: expected ) behind the person, found 1"),
        ("(('lying',),)", "byte 11: expected a person, 0 to 15, found )"),
        ("(('lying'),)", "byte 10: expected a comma, found )"),
        ("(('crying', 0),)", "byte 3: 'crying' is none of telling-truth, lying, not, and, or, ->, <=>"),
        ("((0, 0),)", "byte 3: expected the name of a claim in quotes, found 0"),
        ("(('not',),)", "byte 9: 'not' has 0 parts, but needs 1"),
        ("(('not', ('lying', 0), ('lying', 0)),)", "byte 36: 'not' has 2 parts, but needs 1"),
        ("(('->', ('lying', 0)),)", "byte 21: '->' has 1 parts, but needs 2"),
        ("(('<=>', ('lying', 0), ('lying', 0), ('lying', 0)),)", "byte 50: '<=>' has 3 parts, but needs 2"),
        ("(('and',),)", "byte 9: 'and' has 0 parts, but needs 1"),
        ("(('lying, 0),)", "byte 3: this quote is never closed"),
        ("(('lying', 99999999999999999999999),)", "byte 12: a number this long is not a person"),
        ("(('ly\u{7}ing', 0),)", "byte 3: 'ly\\u{7}ing' is none of telling-truth, lying, not, and, or, ->, <=>"),
    ] {
        let error = parse(text).expect_err(text).to_string();
        assert_eq!(error, says, "{text}");
        assert!(!error.contains('\n'));
    }
    let many = format!("({})", "('lying', 0), ".repeat(17));
    assert_eq!(parse(&many).unwrap_err().to_string(), "byte 226: more than 16 claims");
    assert!(parse(&" ".repeat(2 << 20)).unwrap_err().to_string().contains("more than 1 MiB"));
}
