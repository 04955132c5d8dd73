# What a simulated world does next: turns of processes, and timers. Contract in
# sadik/kernels/native/agenda.pyi.

cimport cython
from cpython.mem cimport PyMem_Free, PyMem_Realloc
from cpython.object cimport PyObject
from cpython.ref cimport Py_DECREF, Py_INCREF

cdef extern from "Python.h":
    object PyContext_CopyCurrent()
    int PyContext_Enter(object context) except -1
    int PyContext_Exit(object context) except -1
    int PyContextVar_Get(object var, object default, PyObject** value) except -1
    # As pointers: a context is left before anybody hears of an exception.
    PyObject* call "PyObject_Call"(PyObject* callback, PyObject* args, PyObject* named)


cdef int failed() except -1:
    """Go on with the exception that is set."""
    return -1


@cython.freelist(256)
cdef class Due:
    cdef public object callback
    cdef public tuple args
    cdef public object context
    cdef bint is_cancelled
    cdef bint is_scheduled
    # Timers' alone: of one size, both come from the list of free ones.
    cdef double time
    cdef Agenda agenda

    def __init__(self, callback, tuple args not None, context):
        self.callback = callback
        self.args = args
        self.context = context

    def cancelled(self):
        return self.is_cancelled

    def cancel(self):
        self.is_cancelled = True


@cython.final
cdef class Timer(Due):
    def when(self):
        return self.time

    def cancel(self):
        if not self.is_cancelled:
            self.is_cancelled = True
            # The agenda may keep it until its time.
            self.callback = None
            self.args = None
            if self.is_scheduled:
                self.agenda.on_cancelled()


cdef class Process:
    cdef public bint alive
    cdef public bint paused
    cdef bint is_listed
    # The first `taken` of them have run. A list, for the collector to look into.
    cdef list ready
    cdef Py_ssize_t taken

    def __init__(self):
        self.alive = True
        self.ready = []

    def forget(self):
        self.ready.clear()
        self.taken = 0


cdef struct Entry:
    double when
    long long number
    PyObject* due
    PyObject* process


cdef inline bint is_before(const Entry* one, const Entry* other) noexcept nogil:
    return one.when < other.when or (one.when == other.when and one.number < other.number)


cdef void rise(Entry* heap, Py_ssize_t at) noexcept nogil:
    """Put an entry above all parents that come later."""
    cdef Entry entry = heap[at]
    cdef Py_ssize_t parent
    while at:
        parent = (at - 1) >> 1
        if not is_before(&entry, &heap[parent]):
            break
        heap[at] = heap[parent]
        at = parent
    heap[at] = entry


cdef void sink(Entry* heap, Py_ssize_t count, Py_ssize_t at) noexcept nogil:
    """Put an entry below all children that come before it."""
    cdef Entry entry = heap[at]
    cdef Py_ssize_t child = 2 * at + 1
    while child < count:
        if child + 1 < count and is_before(&heap[child + 1], &heap[child]):
            child += 1
        if not is_before(&heap[child], &entry):
            break
        heap[at] = heap[child]
        at = child
        child = 2 * at + 1
    heap[at] = entry


cdef class Agenda:
    cdef public double now_s
    cdef public long long turns
    cdef public long long _numbers
    cdef public bint _stopping
    cdef public bint _ended
    cdef readonly Process harness
    cdef object owner
    cdef object random
    cdef long long still_max
    cdef long long turns_max
    cdef list runnable
    cdef Entry* heap
    cdef Py_ssize_t count
    cdef Py_ssize_t room
    cdef Py_ssize_t cancelled

    def __init__(self, owner, Process harness not None, random, double now_s, long long still_max):
        self.owner = owner
        self.harness = harness
        self.random = random
        self.now_s = now_s
        self.still_max = self.turns_max = still_max
        self.runnable = []

    def __dealloc__(self):
        self.drop()
        PyMem_Free(self.heap)

    cdef void drop(self):
        cdef Entry entry
        while self.count:
            self.count -= 1
            entry = self.heap[self.count]
            Py_DECREF(<object>entry.due)
            Py_DECREF(<object>entry.process)

    def time(self):
        return self.now_s

    cdef Process process_of(self, context):
        """Whose context it is."""
        return context.get(self.owner, self.harness)

    cdef Process current(self):
        """Whose code is running."""
        cdef PyObject* found = NULL
        PyContextVar_Get(self.owner, self.harness, &found)
        process = <Process?><object>found
        Py_DECREF(<object>found)
        return process

    cdef int put(self, Process process, Due due) except -1:
        process.ready.append(due)
        if not process.is_listed:
            process.is_listed = True
            self.runnable.append(process)
        return 0

    cdef int push(self, double when, Due due, Process process) except -1:
        cdef Entry* heap
        cdef Entry* entry
        if self.count == self.room:
            heap = <Entry*>PyMem_Realloc(self.heap, (2 * self.room + 64) * sizeof(Entry))
            if heap is NULL:
                raise MemoryError
            self.heap = heap
            self.room = 2 * self.room + 64
        self._numbers += 1
        entry = &self.heap[self.count]
        entry.when = when
        entry.number = self._numbers
        entry.due = <PyObject*>due
        entry.process = <PyObject*>process
        Py_INCREF(due)
        Py_INCREF(process)
        rise(self.heap, self.count)
        self.count += 1
        return 0

    cdef Process fill(self, Due due, callback, tuple args, context):
        """Say what is to be done; returns whose it is."""
        cdef Process process
        if context is None:
            context = PyContext_CopyCurrent()
            process = self.current()
        else:
            process = self.process_of(context)
        due.callback = callback
        due.args = args
        due.context = context
        return process

    cdef Timer at(self, double when, callback, tuple args, context):
        cdef Timer timer = Timer.__new__(Timer)
        cdef Process process = self.fill(timer, callback, args, context)
        timer.time = when
        timer.agenda = self
        if process.alive and not self._ended:
            if when > self.now_s:
                timer.is_scheduled = True
                self.push(when, timer, process)
            else:
                self.put(process, timer)
        return timer

    def call_soon(self, callback, *args, context=None):
        cdef Due due = Due.__new__(Due)
        cdef Process process = self.fill(due, callback, args, context)
        if process.alive and not self._ended:
            self.put(process, due)
        return due

    def call_later(self, double delay, callback, *args, context=None):
        return self.at(self.now_s + delay, callback, args, context)

    def call_at(self, double when, callback, *args, context=None):
        return self.at(when, callback, args, context)

    def post_again(self, Process process not None, double when, Due due not None):
        if process.alive and not self._ended:
            self.push(when, due, process)

    def resume(self, Process process not None):
        process.paused = False
        if process.alive and len(process.ready) > process.taken and not process.is_listed:
            process.is_listed = True
            self.runnable.append(process)

    def waiting(self):
        return list(self.runnable)

    def forget_timers(self):
        self.drop()

    def forget_turns(self):
        cdef Process process
        for process in self.runnable:
            process.forget()
        self.runnable.clear()

    cdef int on_cancelled(self) except -1:
        cdef Py_ssize_t i, kept = 0, count = self.count
        cdef Entry entry
        cdef list dropped = []
        self.cancelled += 1
        if self.cancelled <= 100 or 2 * self.cancelled <= count:
            return 0
        for i in range(count):
            entry = self.heap[i]
            if (<Due>entry.due).is_cancelled:
                dropped.append(<object>entry.due)
                Py_DECREF(<object>entry.due)
                Py_DECREF(<object>entry.process)
            else:
                self.heap[kept] = entry
                kept += 1
        self.count = kept
        for i in range(kept // 2 - 1, -1, -1):
            sink(self.heap, kept, i)
        self.cancelled = 0
        return 0

    def _run_once(self):
        cdef list runnable = self.runnable
        cdef Process process
        cdef Py_ssize_t count, chosen
        while not self._stopping:
            if not runnable:
                self.advance()
            self.turns += 1
            if self.turns > self.turns_max:
                self._stands_still()
            count = len(runnable)
            chosen = <Py_ssize_t>(<double>self.random() * count) if count > 1 else 0
            process = <Process>runnable[chosen]
            runnable[chosen] = runnable[count - 1]
            runnable.pop()
            process.is_listed = False
            if not process.paused:
                self.run_turn(process)

    cdef int run_turn(self, Process process) except -1:
        cdef list ready = process.ready
        cdef Py_ssize_t left = len(ready) - process.taken
        cdef Due due
        cdef object callback, context
        cdef tuple args
        cdef PyObject* answer
        try:
            while left > 0:
                left -= 1
                if len(ready) <= process.taken:
                    # It has died in the middle.
                    return 0
                due = <Due>ready[process.taken]
                ready[process.taken] = None
                process.taken += 1
                if due.is_cancelled:
                    continue
                # It may be cancelled while it runs.
                callback, args, context = due.callback, due.args, due.context
                try:
                    PyContext_Enter(context)
                    answer = call(<PyObject*>callback, <PyObject*>args, NULL)
                    PyContext_Exit(context)
                    if answer is NULL:
                        failed()
                    Py_DECREF(<object>answer)
                except BaseException as error:  # noqa: BLE001  (as asyncio does)
                    self._report(due.callback, error)
        finally:
            del ready[:process.taken]
            process.taken = 0
        if ready and not process.is_listed:
            process.is_listed = True
            self.runnable.append(process)
        return 0

    cdef int advance(self) except -1:
        """Nobody has anything to do: it is the time of the next timer, and all that is due then is ready."""
        cdef Entry entry
        cdef Due due
        cdef Process process
        while self.count and (not self.runnable or self.heap[0].when <= self.now_s):
            entry = self.heap[0]
            self.count -= 1
            if self.count:
                self.heap[0] = self.heap[self.count]
                sink(self.heap, self.count, 0)
            # Theirs were the heap's.
            due = <Due>entry.due
            Py_DECREF(due)
            process = <Process>entry.process
            Py_DECREF(process)
            due.is_scheduled = False
            if due.is_cancelled:
                self.cancelled -= 1
            elif process.alive:
                if entry.when > self.now_s:
                    self.now_s = entry.when
                    self.turns_max = self.turns + self.still_max
                self.put(process, due)
        if not self.runnable:
            self._waits_for_ever()
        return 0
