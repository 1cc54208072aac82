// strict DIR RINGS SLOTS: a Go program whose goroutines each write a ring (guest.h says what that is) and replace a file over
// and over, by raw calls, while others keep the collector and the preemption signals busy. It ends at the first call that
// fails or does less than asked.
//
// Each record, once written, is noted in one log that all share: what the log holds, the rings hold, and no ring is more
// than one record ahead of it.
package main

import (
	"encoding/binary"
	"fmt"
	"os"
	"runtime"
	"strconv"
	"sync"
	"syscall"
	"time"
)

const (
	files  = 3
	record = 4096
	noted  = 16
)

func must(what string, err error) {
	if err != nil {
		fmt.Fprintf(os.Stderr, "%s: %v\n", what, err)
		os.Exit(1)
	}
}

func mustAll(what string, done, asked int, err error) {
	if err == nil && done != asked {
		err = fmt.Errorf("%d bytes of %d", done, asked)
	}
	must(what, err)
}

type log struct {
	sync.Mutex
	fd   int
	line [noted]byte
}

func (log *log) note(ring, newest uint64) {
	log.Lock()
	defer log.Unlock()
	binary.LittleEndian.PutUint64(log.line[:], ring)
	binary.LittleEndian.PutUint64(log.line[8:], newest)
	done, err := syscall.Write(log.fd, log.line[:])
	mustAll("write", done, noted, err)
}

// The name always leads to a whole file, which holds the number of a record.
func replace(dir string, newest uint64) {
	content := []byte(strconv.FormatUint(newest, 10))
	fd, err := syscall.Open(dir+"/next", syscall.O_WRONLY|syscall.O_CREAT|syscall.O_TRUNC|syscall.O_CLOEXEC, 0o644)
	must("open", err)
	done, err := syscall.Pwrite(fd, content, 0)
	mustAll("pwrite", done, len(content), err)
	must("close", syscall.Close(fd))
	must("rename", syscall.Rename(dir+"/next", dir+"/current"))
}

func ring(dir string, number, slots uint64, log *log, made *sync.WaitGroup, begin <-chan struct{}) {
	must("mkdir", syscall.Mkdir(dir, 0o755))
	var fds [files]int
	for i := range fds {
		fd, err := syscall.Open(fmt.Sprintf("%s/ring-%d", dir, i), syscall.O_RDWR|syscall.O_CREAT|syscall.O_EXCL|syscall.O_CLOEXEC, 0o644)
		must("open", err)
		zeros := make([]byte, slots*record)
		done, err := syscall.Pwrite(fd, zeros, 0)
		mustAll("pwrite", done, len(zeros), err)
		fds[i] = fd
	}
	replace(dir, 0)
	made.Done()
	<-begin
	for newest := uint64(1); ; newest++ {
		block := make([]byte, record) // for the collector
		for at := 0; at < record; at += 8 {
			binary.LittleEndian.PutUint64(block[at:], newest)
		}
		done, err := syscall.Pwrite(fds[newest%files], block, int64(newest/files%slots*record))
		mustAll("pwrite", done, record, err)
		log.note(number, newest)
		if newest%64 == 0 {
			replace(dir, newest)
		}
		time.Sleep(time.Duration(100+newest%400) * time.Microsecond)
	}
}

// Never gives its processor up by itself: the runtime sends SIGURG after 10 ms.
func spin() {
	for turns := 0; ; turns++ {
		if turns == 1<<27 {
			turns = 0
			time.Sleep(5 * time.Millisecond)
		}
	}
}

func litter() {
	kept := make([][]byte, 64)
	for i := 0; ; i++ {
		kept[i%len(kept)] = make([]byte, 64<<10)
		if i%64 == 0 {
			runtime.GC()
		}
		time.Sleep(time.Millisecond)
	}
}

func main() {
	if len(os.Args) != 4 {
		must("arguments", syscall.EINVAL)
	}
	rings, err := strconv.ParseUint(os.Args[2], 10, 32)
	must("RINGS", err)
	slots, err := strconv.ParseUint(os.Args[3], 10, 32)
	must("SLOTS", err)
	runtime.GOMAXPROCS(4)
	var log log
	log.fd, err = syscall.Open(os.Args[1]+"/log", syscall.O_WRONLY|syscall.O_CREAT|syscall.O_APPEND|syscall.O_CLOEXEC, 0o644)
	must("open", err)
	var made sync.WaitGroup
	begin := make(chan struct{})
	for number := uint64(0); number < rings; number++ {
		made.Add(1)
		go ring(fmt.Sprintf("%s/%d", os.Args[1], number), number, slots, &log, &made, begin)
	}
	made.Wait()
	go spin()
	go litter()
	close(begin)
	_, err = os.Stdout.WriteString("ready\n")
	must("ready", err)
	select {}
}
