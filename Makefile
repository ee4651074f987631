# make demo   see a virtual machine boot on a private two-host domain, from nothing
# make test   every test that this machine can run, and the names of those it can't
# make setup  install what the two need (they do it by themselves)
# make build  target/release/cell and target/release/corelet
# make bench  rate, latency, CPU and memory of a Cell on a private domain
# make clean-labs  take down labs that a crash left behind

.PHONY: help demo test setup build bench clean-labs
help:
	@sed -n 's/^# //p' Makefile

demo:
	@scripts/demo.sh

test:
	@scripts/test.sh

setup:
	@scripts/setup.sh

build:
	cargo build --release --locked --workspace

bench:
	@scripts/bench.sh

clean-labs:
	@scripts/lab.sh sweep
