"""The made-up classes of the corpora that these tests write."""

MIDS = ["/m/0aaa01", "/m/0aaa02", "/m/0aaa03", "/t/dd001"]
