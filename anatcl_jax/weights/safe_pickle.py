"""Reads a pickle as plain data: nothing that it names is imported, called or constructed.

A pickle is a program for a stack machine. Python's own reader lets it call whatever can be
imported; this machine has no way to. A name stays a name. The calls that write plain data down (an
OrderedDict, a NumPy array) are listed in `plain_objects` and done by functions there. Any other
call is refused, though it could not happen: such a file was not made to be read.

The name of a class and that of a function look alike, and finding out which it is would mean
importing it. What the program does with the name decides: NEWOBJ, by which every instance of an
ordinary class is written, makes an empty object of it and calls nothing else, so a name from
outside Python's own library becomes a LeftOut there, which swallows its content; REDUCE, OBJ and
INST call it, and are refused. Names of Python's library that are not listed are refused at sight.
"""

from __future__ import annotations

import pickletools
import re
import sys
from collections.abc import Callable
from typing import Any, BinaryIO

from anatcl_jax.errors import UserError
from anatcl_jax.weights import plain_objects as plain

_MOST_INSTRUCTIONS = 5_000_000
_MOST_COPIED = 1_000_000

# An empty object a time: two of them must not be one.
_CONSTANTS = {'NONE': lambda: None, 'NEWTRUE': lambda: True, 'NEWFALSE': lambda: False,
              'EMPTY_LIST': list, 'EMPTY_DICT': dict, 'EMPTY_TUPLE': tuple, 'EMPTY_SET': set}
_COLLECTED = {'TUPLE': tuple, 'LIST': list, 'DICT': plain.paired, 'FROZENSET': plain.as_set}
_LITERALS = {'INT', 'BININT', 'BININT1', 'BININT2', 'LONG', 'LONG1', 'LONG4', 'FLOAT', 'BINFLOAT',
             'STRING', 'BINSTRING', 'SHORT_BINSTRING', 'UNICODE', 'BINUNICODE',
             'SHORT_BINUNICODE', 'BINUNICODE8', 'BINBYTES', 'SHORT_BINBYTES', 'BINBYTES8'}


def load(stream: BinaryIO, calls: dict[str, Callable[..., Any]],
         persistent: Callable[[Any], Any] | None = None) -> tuple[Any, list[str]]:
  """The value of the pickle that starts at the stream's position, and the classes left out.

  Args:
    stream: read up to the pickle's end; it must not allocate what a length in it claims (BytesIO
      and mmap do not).
    calls: functions that stand for those of that name; they are given what the pickle says, and
      raise ValueError or TypeError for what they can't take.
    persistent: what stands for an object that the pickle only refers to, by its reference.

  Raises:
    UserError: it would call something else, or is damaged; the text names it.
  """
  machine = _Machine(plain.CALLS | calls, persistent)
  try:
    start = stream.tell()
    for count, (opcode, argument, position) in enumerate(pickletools.genops(stream)):
      # A few bytes could have a large list copied again and again.
      if count > _MOST_INSTRUCTIONS or machine.copied > _MOST_COPIED + position - start:
        raise ValueError('it would make much more than it holds')
      machine.step(opcode.name, argument)
    value, = machine.stack
  except (ValueError, TypeError, LookupError, OverflowError, AttributeError) as error:
    raise UserError(f'its pickle is damaged ({str(error)[:80]})') from None
  return value, sorted(machine.left_out)


class _Machine:
  """The stack machine: `stack` since the last mark, the stacks before it, and the memo."""

  def __init__(self, calls: dict[str, Callable[..., Any]], persistent: Callable | None):
    self.stack: list[Any] = []
    self.before: list[list[Any]] = []
    self.memo: dict[int, Any] = {}
    self.left_out: set[str] = set()
    self.copied = 0   # items and bytes, by calls
    self._calls, self._persistent = calls, persistent

  def step(self, opcode: str, argument: Any) -> None:
    """One instruction, as pickletools names and decodes it."""
    stack, pop = self.stack, self.stack.pop
    if opcode in _CONSTANTS:
      stack.append(_CONSTANTS[opcode]())
    elif opcode in _LITERALS:
      stack.append(argument)
    elif opcode in ('PROTO', 'FRAME', 'STOP'):
      pass
    elif opcode == 'MARK':
      self.before.append(stack)
      self.stack = []
    elif opcode == 'POP_MARK':
      self._since_mark()
    elif opcode == 'POP':
      pop() if stack else self._since_mark()
    elif opcode == 'DUP':
      stack.append(stack[-1])
    elif opcode in ('PUT', 'BINPUT', 'LONG_BINPUT'):
      self.memo[argument] = stack[-1]
    elif opcode == 'MEMOIZE':
      self.memo[len(self.memo)] = stack[-1]
    elif opcode in ('GET', 'BINGET', 'LONG_BINGET'):
      stack.append(self.memo[argument])
    elif opcode in ('TUPLE1', 'TUPLE2', 'TUPLE3'):
      stack.append(tuple([pop() for _ in range(int(opcode[-1]))][::-1]))
    elif opcode in ('TUPLE', 'LIST', 'DICT', 'FROZENSET'):
      items = self._since_mark()
      self.stack.append(_COLLECTED[opcode](items))
    elif opcode == 'APPEND':
      item = pop()
      plain.extend(stack[-1], [item])
    elif opcode in ('APPENDS', 'ADDITEMS', 'SETITEMS'):
      items = self._since_mark()
      (plain.update if opcode == 'SETITEMS' else plain.extend)(self.stack[-1], items)
    elif opcode == 'SETITEM':
      value, key = pop(), pop()
      plain.update(stack[-1], [key, value])
    elif opcode == 'GLOBAL':
      stack.append(self._name(*argument.split(' ', 1)))
    elif opcode == 'STACK_GLOBAL':
      name, module = pop(), pop()
      stack.append(self._name(module, name))
    elif opcode == 'REDUCE':
      arguments, function = pop(), pop()
      stack.append(self._call(function, arguments))
    elif opcode == 'NEWOBJ':
      arguments, kind = pop(), pop()
      stack.append(self._construct(kind, arguments))
    elif opcode == 'NEWOBJ_EX':
      keywords, arguments, kind = pop(), pop(), pop()
      stack.append(self._construct(kind, arguments or keywords))
    elif opcode == 'BUILD':
      state = pop()
      self.copied += len(state) if isinstance(state, dict) else 0
      plain.build(stack[-1], state)
    elif opcode == 'BINPERSID' and self._persistent is not None:
      stack.append(self._persistent(pop()))
    elif opcode == 'INST':
      raise plain.refused(f'would call {self._name(*argument.split(" ", 1)).text}')
    elif opcode == 'OBJ':
      raise plain.refused(f'would call {plain.described(self.stack[0])}')
    elif opcode.startswith('EXT'):
      raise plain.refused(f'takes number {argument} of Python\'s extension registry')
    else:
      raise plain.refused(f'has the instruction {opcode}')

  def _since_mark(self) -> list[Any]:
    items, self.stack = self.stack, self.before.pop()
    return items

  def _name(self, module: Any, name: Any) -> plain.Name:
    if not isinstance(module, str) or not isinstance(name, str):
      raise ValueError('a name that is none')
    module = {'__builtin__': 'builtins', 'copy_reg': 'copyreg'}.get(module, module)
    text = f'{module}.{name}'
    if not re.fullmatch(r'[\w.]{1,200}', text):
      raise ValueError('a name that is none')
    if '.' in name:
      raise plain.refused(f'names {text}, by attributes of {module}')
    if module.split('.')[0] in sys.stdlib_module_names and (
        text not in self._calls and text not in plain.CLASSES):
      raise plain.refused(f'names {text}')
    return plain.Name(text)

  def _call(self, function: Any, arguments: Any) -> Any:
    if not isinstance(function, plain.Name) or function.text not in self._calls:
      raise plain.refused(f'would call {plain.described(function)}')
    if not isinstance(arguments, tuple):
      raise ValueError('a call without arguments')
    self.copied += len(arguments) + sum(
        len(part) for part in arguments
        if isinstance(part, str | bytes | list | tuple | dict | set))
    if function.text == 'copyreg._reconstructor':
      kind, base, state = arguments
      if base != plain.Name('builtins.object') or state is not None:
        raise plain.refused(f'would construct {plain.described(kind)} of {plain.described(base)}')
      return self._construct(kind, ())
    made = self._calls[function.text](*arguments)
    if isinstance(made, plain.LeftOut):
      self.left_out.add(made.text)
    return made

  def _construct(self, kind: Any, arguments: Any) -> Any:
    """An empty object: of the two classes that are known, or one that is left out."""
    if not isinstance(kind, plain.Name):
      raise plain.refused(f'would construct {plain.described(kind)}')
    if kind.text in ('argparse.Namespace', 'collections.OrderedDict') and not arguments:
      return plain.Namespace() if kind.text == 'argparse.Namespace' else {}
    if kind.text.split('.')[0] in sys.stdlib_module_names:
      raise plain.refused(f'would construct {kind.text}')
    self.left_out.add(kind.text)
    return plain.LeftOut(kind.text)
