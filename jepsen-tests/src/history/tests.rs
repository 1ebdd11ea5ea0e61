use std::io::BufReader;

use bytes::Bytes;

use super::*;

fn parse(text: &str) -> Result<History, ReadError> {
    read(BufReader::with_capacity(7, text.as_bytes()))
}

fn refused(text: &str) -> String {
    parse(text).map(|history| panic!("{history:?}")).unwrap_or_else(|error| error.to_string())
}

fn operation(process: u64, action: Action) -> Operation {
    let (call, ret) = (10 * process, 10 * process + 5);
    let ret = if action.result() == Outcome::Info { call } else { ret };
    Operation { process, key: format!("k{process}"), action, rev: None, node: None, token: None, call, ret }
}

#[test]
fn example_of_the_format_is_read() {
    let text = r#"{"process":3,"op":"cas","key":"k","expect":"a","value":"b","result":"ok","swapped":true,"rev":812,"node":2,"call":1200,"ret":3400}
        {"op":"nemesis","f":"partition","value":"[1]|[2,3]","call":5,"ret":9}"#;
    let history = parse(text).unwrap();
    let expected = Operation {
        process: 3,
        key: "k".to_owned(),
        action: Action::Cas {
            expect: Some(Bytes::from_static(b"a")),
            value: Bytes::from_static(b"b"),
            outcome: Outcome::Ok(true),
        },
        rev: Some(812),
        node: Some(2),
        token: None,
        call: 1200,
        ret: 3400,
    };
    assert_eq!(history.operations, [expected]);
    assert_eq!(history.nemeses[0].value.as_deref(), Some("[1]|[2,3]"));
}

#[test]
fn what_is_written_is_read_again() {
    let bytes = Bytes::from_static(b"\xff\x00 not text");
    let text = Bytes::from_static(b"text \"quoted\"\n");
    let some = |value: &Bytes| Some(value.clone());
    let actions = vec![
        Action::Get { outcome: Outcome::Ok(None) },
        Action::Get { outcome: Outcome::Ok(some(&bytes)) },
        Action::Get { outcome: Outcome::Ok(Some(Bytes::new())) },
        Action::Get { outcome: Outcome::Fail },
        Action::Get { outcome: Outcome::Info },
        Action::Put { value: text.clone(), outcome: Outcome::Ok(Some(true)) },
        Action::Put { value: bytes.clone(), outcome: Outcome::Ok(None) },
        Action::Put { value: bytes.clone(), outcome: Outcome::Info },
        Action::Cas { expect: None, value: text.clone(), outcome: Outcome::Ok(false) },
        Action::Cas { expect: some(&bytes), value: bytes.clone(), outcome: Outcome::Fail },
        Action::Cas { expect: some(&text), value: text, outcome: Outcome::Info },
        Action::Delete { outcome: Outcome::Ok(Some(false)) },
        Action::Delete { outcome: Outcome::Info },
    ];
    let mut operations: Vec<Operation> =
        actions.into_iter().zip(1..).map(|(action, process)| operation(process, action)).collect();
    operations[5].rev = Some(u64::MAX);
    operations[7].token = Some(Token(4, 5));
    operations[8].node = Some(3);
    let nemesis = Nemesis { f: "kill".to_owned(), value: None, call: 3, ret: None };

    let mut writer = HistoryWriter::new(Vec::new());
    for operation in &operations {
        writer.operation(operation).unwrap();
    }
    writer.nemesis(&nemesis).unwrap();
    let written = String::from_utf8(writer.finish().unwrap()).unwrap();
    assert_eq!(written.lines().count(), operations.len() + 1);
    let history = parse(&written).unwrap();
    assert_eq!(history.operations, operations);
    assert_eq!(history.nemeses, [nemesis]);
}

#[test]
fn null_is_absent_and_a_missing_value_is_an_error() {
    let get = |value: &str| {
        parse(&format!(r#"{{"process":1,"op":"get","key":"k",{value}"result":"ok","call":1,"ret":2}}"#))
    };
    let absent = Action::Get { outcome: Outcome::Ok(None) };
    assert_eq!(get(r#""value":null,"#).unwrap().operations[0].action, absent);
    assert_eq!(get("").unwrap_err().to_string(), "line 1: a get that is ok needs value");
}

#[test]
fn bad_line_is_named() {
    let good = r#"{"process":1,"op":"put","key":"k","value":"v","result":"ok","call":1,"ret":2}"#;
    let bad = [
        (r#"{"process":1,"op":"put""#, "EOF"),
        (
            r#"{"process":9,"op":"put","key":"k","value":"v","result":"ok","call":3,"ret":2}"#,
            "ret 2 is before call 3",
        ),
        (r#"{"process":9,"op":"put","key":"k","value":"v","result":"okay","call":3,"ret":4}"#, "okay"),
        (r#"{"process":9,"op":"put","key":"k","result":"ok","call":3,"ret":4}"#, "a put needs value"),
        (r#"{"process":9,"op":"put","key":"k","value":"v","result":"ok","call":3}"#, "ret is missing"),
        (r#"{"process":9,"op":"take","key":"k","result":"ok","call":3,"ret":4}"#, "take"),
        (r#"{"process":9,"op":"delete","key":"k","result":"ok","swaped":true,"call":3,"ret":4}"#, "swaped"),
        (
            r#"{"process":9,"op":"delete","key":"k","result":"ok","swapped":true,"call":3,"ret":4}"#,
            "swapped belongs",
        ),
        (r#"{"process":9,"op":"get","key":"k","value_b64":"?","result":"ok","call":3,"ret":4}"#, "value_b64"),
        (
            r#"{"process":9,"op":"cas","key":"k","expect":"a","value":"b","result":"ok","call":3,"ret":4}"#,
            "needs swapped",
        ),
        (r#"{"process":-9,"op":"delete","key":"k","result":"ok","call":3,"ret":4}"#, "-9"),
        (r#"{"op":"nemesis","call":3}"#, "a nemesis needs f"),
        ("\u{1}", "expected value"),
    ];
    for (line, what) in bad {
        let error = refused(&format!("{good}\n\n{line}\n"));
        assert!(error.starts_with("line 3") && error.contains(what), "{line}: {error}");
    }
}

#[test]
fn bytes_that_are_not_text_are_named() {
    let error = read(&b"{\"process\":1\n{\"\xff\"}"[..]).unwrap_err().to_string();
    assert!(error.starts_with("line 1: EOF"), "{error}");
    let error = read(&b"\n{\"\xff\"}"[..]).unwrap_err().to_string();
    assert!(error.starts_with("line 2: not UTF-8"), "{error}");
}

#[test]
fn process_has_one_operation_open_and_none_after_info() {
    let line = |process: u64, result: &str, call: u64, ret: u64| {
        format!(
            r#"{{"process":{process},"op":"delete","key":"k","result":"{result}","call":{call},"ret":{ret}}}"#
        )
    };
    assert!(parse(&[line(1, "ok", 1, 5), line(1, "info", 5, 6), line(2, "ok", 1, 9)].join("\n")).is_ok());
    assert_eq!(
        refused(&[line(1, "ok", 4, 9), line(1, "ok", 1, 5)].join("\n")),
        "line 1: process 1 still has the operation of line 2 open"
    );
    assert_eq!(
        refused(&[line(1, "info", 1, 2), line(1, "ok", 4, 9)].join("\n")),
        "line 2: process 1 is used again after its info on line 1"
    );
}

#[test]
fn nothing_and_noise_are_no_histories() {
    assert!(matches!(parse(""), Err(ReadError::Empty)));
    assert!(matches!(parse("\n \n"), Err(ReadError::Empty)));
    assert!(matches!(parse(r#"{"op":"nemesis","f":"kill","call":1}"#), Err(ReadError::Empty)));
    assert!(refused("\nprocess,op\n").starts_with("line 2: "));
}

#[test]
fn endless_line_is_refused() {
    let line = vec![b' '; LINE_BYTES_MAX as usize + 1];
    assert!(read(&line[..]).unwrap_err().to_string().starts_with("line 1: longer than"));
}

#[test]
fn jepsen_log_is_read() {
    let text = "INFO  jepsen.core - noise
        INFO  jepsen.util - :nemesis :info :start nil
        INFO  jepsen.util - 0\t:invoke\t:write\t1
        INFO  jepsen.util - 1\t:invoke\t:cas\t[1 2]
        INFO  jepsen.util - 0\t:ok\t:write\t1
        INFO  jepsen.util - 1\t:fail\t:cas\t[1 2]
        INFO  jepsen.util - 1\t:invoke\t:read\tnil
        INFO  jepsen.util - 1\t:fail\t:read\t:timed-out
        INFO  jepsen.util - 2\t:invoke\t:cas\t[3 4]
        INFO  jepsen.util - 2\t:info\t:cas\t:timed-out
        INFO  jepsen.util - 0\t:invoke\t:read\tnil
        INFO  jepsen.util - 0\t:ok\t:read\tnil
        INFO  jepsen.util - 0\t:invoke\t:write\t7";
    let history = parse(text).unwrap();
    let seen: Vec<String> = history.operations.iter().map(ToString::to_string).collect();
    assert_eq!(
        seen,
        [
            "process 0: put \"1\": ok [3, 5]",
            "process 1: cas \"1\" to \"2\": mismatch [4, 6]",
            "process 1: get: fail [7, 8]",
            "process 2: cas \"3\" to \"4\": info [9, ?]",
            "process 0: get = absent [11, 12]",
            "process 0: put \"7\": info [13, ?]",
        ]
    );
}

#[test]
fn jepsen_log_that_makes_no_sense_is_refused() {
    let line = |text: &str| format!("INFO  jepsen.util - {text}\n");
    for (text, what) in [
        (line("0 :ok :read 1"), "line 1: process 0 has no operation open"),
        (line("0 :invoke :read nil") + &line("0 :invoke :read nil"), "line 2: process 0 still has"),
        (line("0 :invoke :cas 1 2"), "line 1: a cas needs [from to]"),
        (line("0 :invoke :write x"), "line 1: \"x\" is not a number"),
        (line("0 :invoke :write 1") + &line("0 :ok :read 1"), "line 2: a write cannot return :ok :read"),
        (line("0 :invoke"), "line 1: an event of a process needs"),
    ] {
        assert!(refused(&text).starts_with(what), "{}", refused(&text));
    }
}

#[test]
fn kv_log_is_read() {
    let text = r#"{:process 0, :type :invoke, :f :append, :key "a b", :value "x, \"}"}
        {:process 1, :type :invoke, :f :get, :key "a b", :value nil}
        {:process 0, :type :ok, :f :append, :key "a b", :value "x, \"}"}
        {:process 1, :type :ok, :f :get, :key "a b", :value ""}
        {:process 2, :type :invoke, :f :put, :key "c", :value "v"}"#;
    let history = parse(text).unwrap();
    assert_eq!(history.semantics, Semantics::Text);
    let seen: Vec<String> = history.operations.iter().map(ToString::to_string).collect();
    assert_eq!(
        seen,
        [
            "process 0: append \"x, \\\"}\": ok [1, 3]",
            "process 1: get = \"\" [2, 4]",
            "process 2: put \"v\": info [5, ?]",
        ]
    );
    assert_eq!(history.operations[0].key, "a b");
}

#[test]
fn kv_log_that_makes_no_sense_is_refused() {
    let get = r#"{:process 0, :type :invoke, :f :get, :key "k", :value nil}"#;
    for (text, what) in [
        (r#"{:process 0, :type :ok, :f :get, :key "k", :value nil}"#.to_owned(), "line 1: process 0 has no"),
        (format!("{get}\n{get}"), "line 2: process 0 still has the operation of line 1 open"),
        (format!("{get}\n{}", get.replace("invoke", "ok")), "line 2: a get needs a value"),
        (
            format!("{get}\n{}", get.replace(":invoke, :f :get", ":ok, :f :put")),
            "line 2: this does not answer",
        ),
        (get.replace('}', ""), "line 1: "),
        (get.replace("\"k\"", "\"k"), "line 1: a string has no end"),
        (get.replace(":key", ":color"), "line 1: cannot read \":color\""),
    ] {
        assert!(refused(&text).starts_with(what), "{text}: {}", refused(&text));
    }
}
