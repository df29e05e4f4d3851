"""The packages that are tried in a worker: what each does inside a hook, and why others are left out.

The ranking is that of the most downloaded packages of PyPI, last 30 days, published monthly as top-pypi-packages, as of
November 2026, cut at rank 289, where the hundredth package of use inside a hook stands. A package counts if its code is
Python (a compiled part may speed it up but is not needed), and if it does something that a hook may want: it works on
values, texts, documents, numbers or times. ``LEFT_OUT`` has the reason for every other one.
"""

from __future__ import annotations

from typing import NamedTuple


class Row(NamedTuple):
    """One package: its rank, what ``plugin add`` is given, and code that uses it and asserts."""

    rank: int
    requirement: str
    code: str

    @property
    def name(self) -> str:
        """The package's name."""
        return self.requirement.split(" ")[0].split("==")[0]


ROWS = [Row(rank, requirement, code.strip()) for rank, requirement, code in (
    (2, "packaging", """
from packaging.version import Version
assert Version('1.10') > Version('1.9')"""),
    (5, "idna", """
import idna
assert idna.encode('ドメイン.テスト') == b'xn--eckwd4c7c.xn--zckzah'"""),
    (7, "typing-extensions", """
from typing_extensions import TypedDict, NotRequired
class T(TypedDict):
    a: NotRequired[int]
assert T.__optional_keys__ == {'a'}"""),
    (8, "charset-normalizer", """
from charset_normalizer import from_bytes
text = 'Ελληνική γλώσσα, η μητρική γλώσσα των Ελλήνων' * 4
assert str(from_bytes(text.encode('utf-8')).best()) == text"""),
    (13, "python-dateutil", """
from dateutil import parser, rrule, tz, relativedelta
import datetime
assert parser.parse('3 March 2026 10:00').month == 3
assert len(list(rrule.rrule(rrule.MONTHLY, count=3, dtstart=datetime.datetime(2026, 1, 1)))) == 3
assert tz.gettz('Europe/Berlin') is not None"""),
    (14, "six", """
import six
from six.moves import urllib, range
from six.moves.urllib.parse import urlparse
assert urlparse('http://a/b').path == '/b' and six.PY3"""),
    (15, "pyyaml", """
import yaml
assert yaml.safe_load('a: [1, 2]\\nb: x') == {'a': [1, 2], 'b': 'x'}
assert yaml.safe_dump({'a': 1}) == 'a: 1\\n'"""),
    (17, "pygments", """
from pygments import highlight
from pygments.lexers import get_lexer_by_name
from pygments.formatters import HtmlFormatter
assert '<span class="k">def</span>' in highlight('def f(): pass', get_lexer_by_name('python'), HtmlFormatter())"""),
    (21, "pluggy", """
import pluggy
spec, impl = pluggy.HookspecMarker('p'), pluggy.HookimplMarker('p')
class S:
    @spec
    def go(self, x): pass
class P:
    @impl
    def go(self, x): return x + 1
pm = pluggy.PluginManager('p'); pm.add_hookspecs(S); pm.register(P())
assert pm.hook.go(x=1) == [2]"""),
    (22, "pycparser", """
from pycparser import c_parser
assert c_parser.CParser().parse('int a = 1;').ext[0].name == 'a'"""),
    (27, "attrs", """
import attr, attrs
@attrs.define
class P:
    x: int = attrs.field(validator=attrs.validators.ge(0))
assert attrs.asdict(P(1)) == {'x': 1}
try:
    P(-1)
    assert False
except ValueError:
    pass"""),
    (28, "protobuf", """
from google.protobuf import struct_pb2, json_format
s = struct_pb2.Struct(); s.update({'a': 1})
assert json_format.MessageToDict(s) == {'a': 1.0}
assert struct_pb2.Struct.FromString(s.SerializeToString()) == s"""),
    (29, "h11", """
import h11
c = h11.Connection(h11.SERVER)
c.receive_data(b'GET /x HTTP/1.1\\r\\nHost: a\\r\\n\\r\\n')
assert c.next_event().target == b'/x'"""),
    (31, "annotated-types", """
import annotated_types as at
assert at.Interval(gt=1, lt=3).gt == 1"""),
    (32, "iniconfig", """
import iniconfig
assert iniconfig.IniConfig('x', data='[a]\\nb = 1')['a']['b'] == '1'"""),
    (36, "typing-inspection", """
from typing_inspection.introspection import inspect_annotation, AnnotationSource
assert inspect_annotation(int, annotation_source=AnnotationSource.ANY).type is int"""),
    (40, "markupsafe", """
from markupsafe import escape, Markup
assert escape('<a>') == Markup('&lt;a&gt;')"""),
    (42, "python-dotenv", """
import io, dotenv
assert dotenv.dotenv_values(stream=io.StringIO('A=1')) == {'A': '1'}"""),
    (43, "pathspec", """
import pathspec
assert pathspec.PathSpec.from_lines('gitignore', ['*.py']).match_file('a/b.py')"""),
    (44, "pyjwt", """
import jwt
key = 'k' * 32
assert jwt.decode(jwt.encode({'a': 1}, key, 'HS256'), key, ['HS256']) == {'a': 1}"""),
    (45, "jinja2", """
import jinja2
env = jinja2.Environment(autoescape=True)
assert env.from_string('{% for x in xs %}<b>{{ x }}</b>{% endfor %}').render(xs=['<', 2]) == '<b>&lt;</b><b>2</b>'"""),
    (46, "rich", """
import io
from rich.console import Console
from rich.table import Table
out = io.StringIO(); t = Table('a'); t.add_row('1')
Console(file=out, width=40).print(t)
assert '1' in out.getvalue()"""),
    (47, "jmespath", """
import jmespath
assert jmespath.search('a[?b > `1`].b', {'a': [{'b': 1}, {'b': 2}]}) == [2]"""),
    (48, "markdown-it-py", """
from markdown_it import MarkdownIt
assert MarkdownIt().render('**a** &amp;') == '<p><strong>a</strong> &amp;</p>\\n'"""),
    (51, "importlib-metadata", """
import importlib_metadata
assert importlib_metadata.version('zipp')"""),
    (52, "yarl", """
from yarl import URL
assert str(URL('http://a/b') / 'c' % {'d': 'é'}) == 'http://a/b/c?d=%C3%A9'"""),
    (54, "multidict", """
from multidict import CIMultiDict
d = CIMultiDict(a=1); d.add('A', 2)
assert d.getall('a') == [1, 2]"""),
    (55, "jsonschema==4.17.3", """
import jsonschema
jsonschema.validate({'a': 1}, {'type': 'object', 'required': ['a']})
try:
    jsonschema.validate({}, {'required': ['a']})
    assert False
except jsonschema.ValidationError as error:
    assert 'required' in error.message"""),
    (56, "zipp", """
import io, zipfile, zipp
b = io.BytesIO()
with zipfile.ZipFile(b, 'w') as z:
    z.writestr('a/b', 'c')
assert zipp.Path(zipfile.ZipFile(b), 'a/b').read_text() == 'c'"""),
    (58, "propcache", """
from propcache.api import cached_property
class A:
    @cached_property
    def x(self): return 1
assert A().x == 1"""),
    (60, "mdurl", """
import mdurl
assert mdurl.encode('http://a/ä') == 'http://a/%C3%A4'"""),
    (61, "pyasn1", """
from pyasn1.type import univ
from pyasn1.codec.der import encoder, decoder
assert decoder.decode(encoder.encode(univ.Integer(5)))[0] == 5"""),
    (62, "pytz", """
import pytz, datetime
assert pytz.timezone('America/New_York').localize(datetime.datetime(2026, 7, 1)).utcoffset().total_seconds() == -14400
assert 'Europe/Berlin' in pytz.all_timezones and pytz.country_timezones('de')"""),
    (64, "googleapis-common-protos", """
from google.rpc import status_pb2
from google.type import money_pb2
assert money_pb2.Money(units=3).units == 3 and status_pb2.Status(code=5).code == 5"""),
    (65, "frozenlist", """
from frozenlist import FrozenList
f = FrozenList([1]); f.freeze()
assert f.frozen and f[0] == 1"""),
    (70, "annotated-doc", """
from annotated_doc import Doc
assert Doc('x').documentation == 'x'"""),
    (71, "aiosignal", """
import asyncio
from aiosignal import Signal
seen = []
async def go():
    s = Signal('x')
    async def f(v): seen.append(v)
    s.append(f); s.freeze(); await s.send(1)
asyncio.run(go())
assert seen == [1]"""),
    (75, "tzdata", """
import importlib.resources, tzdata
assert importlib.resources.files('tzdata.zoneinfo.Europe').joinpath('Berlin').read_bytes()[:4] == b'TZif'"""),
    (82, "pyasn1-modules", """
from pyasn1_modules import rfc2459
assert rfc2459.Certificate() is not None"""),
    (86, "tenacity", """
import tenacity
n = []
@tenacity.retry(stop=tenacity.stop_after_attempt(3), wait=tenacity.wait_none())
def f():
    n.append(1)
    if len(n) < 3: raise ValueError
    return 7
assert f() == 7"""),
    (87, "wrapt", """
import wrapt
@wrapt.decorator
def twice(wrapped, instance, args, kwargs): return 2 * wrapped(*args)
@twice
def f(x): return x
assert f(3) == 6"""),
    (94, "python-multipart", """
import python_multipart
from python_multipart.multipart import parse_options_header
assert parse_options_header('a/b; c=d')[1] == {b'c': b'd'}"""),
    (96, "sniffio", """
import asyncio, sniffio
async def go(): return sniffio.current_async_library()
assert asyncio.run(go()) == 'asyncio'"""),
    (99, "pyparsing", """
import pyparsing as pp
assert pp.Word(pp.alphas).parse_string('ab').as_list() == ['ab']"""),
    (101, "tomli", """
import tomli
assert tomli.loads('a = 1') == {'a': 1}"""),
    (103, "beautifulsoup4", """
from bs4 import BeautifulSoup
assert BeautifulSoup('<p class=x>a<b>c</b></p>', 'html.parser').select_one('p.x b').text == 'c'"""),
    (104, "oauthlib", """
from oauthlib.oauth1 import Client
_, headers, _ = Client('k', client_secret='s').sign('http://a/b')
assert 'oauth_signature' in headers['Authorization']"""),
    (105, "soupsieve beautifulsoup4", """
import soupsieve, bs4
assert soupsieve.select('p > b', bs4.BeautifulSoup('<p><b>1</b></p>', 'html.parser'))[0].text == '1'"""),
    (108, "cachetools", """
import cachetools
c = cachetools.LRUCache(1); c[1] = 1; c[2] = 2
assert list(c) == [2]"""),
    (112, "exceptiongroup", """
from exceptiongroup import ExceptionGroup
assert len(ExceptionGroup('x', [ValueError()]).exceptions) == 1"""),
    (115, "more-itertools", """
import more_itertools as m
assert list(m.chunked([1, 2, 3], 2)) == [[1, 2], [3]]"""),
    (118, "rsa", """
import rsa
pub, priv = rsa.newkeys(512)
assert rsa.decrypt(rsa.encrypt(b'a', pub), priv) == b'a'"""),
    (119, "tomlkit", """
import tomlkit
d = tomlkit.parse('a = 1 # x'); d['a'] = 2
assert tomlkit.dumps(d) == 'a = 2 # x'"""),
    (120, "proto-plus", """
import proto
class M(proto.Message):
    a = proto.Field(proto.INT32, number=1)
assert M.to_dict(M(a=3)) == {'a': 3}"""),
    (126, "mypy-extensions", """
import mypy_extensions
assert mypy_extensions.TypedDict"""),
    (129, "openpyxl", """
import io, openpyxl
w = openpyxl.Workbook(); w.active['A1'] = 5
b = io.BytesIO(); w.save(b)
assert openpyxl.load_workbook(io.BytesIO(b.getvalue())).active['A1'].value == 5"""),
    (130, "et-xmlfile", """
import io
from et_xmlfile import xmlfile
b = io.BytesIO()
with xmlfile(b) as x:
    with x.element('a'): pass
assert b.getvalue() in (b'<a />', b'<a></a>')"""),
    (132, "wcwidth", """
import wcwidth
assert wcwidth.wcswidth('コ') == 2"""),
    (135, "docutils", """
from docutils.core import publish_string
assert b'<em>a</em>' in publish_string('*a*', writer_name='html', settings_overrides={'_disable_config': True})"""),
    (141, "networkx", """
import networkx as nx
g = nx.Graph([(1, 2), (2, 3)])
assert nx.shortest_path(g, 1, 3) == [1, 2, 3]"""),
    (146, "msgpack", """
import msgpack
assert msgpack.unpackb(msgpack.packb({'a': [1]})) == {'a': [1]}"""),
    (150, "decorator", """
import decorator
@decorator.decorator
def d(f, *a): return f(*a) + 1
@d
def g(x): return x
assert g(1) == 2"""),
    (160, "sortedcontainers", """
from sortedcontainers import SortedDict
assert list(SortedDict({2: 0, 1: 0})) == [1, 2]"""),
    (162, "docstring-parser", """
import docstring_parser
assert docstring_parser.parse('A.\\n\\n:param x: b').params[0].arg_name == 'x'"""),
    (165, "fonttools", """
import io
from fontTools.fontBuilder import FontBuilder
from fontTools.ttLib import TTFont
fb = FontBuilder(1000); fb.setupGlyphOrder(['.notdef']); fb.setupCharacterMap({})
assert fb.font.getGlyphOrder() == ['.notdef']"""),
    (167, "tabulate", """
from tabulate import tabulate
assert '| a |' in tabulate([[1]], ['a'], tablefmt='pipe').replace('   ', ' ')"""),
    (170, "isodate", """
import isodate
assert isodate.parse_duration('PT1H').total_seconds() == 3600"""),
    (171, "async-timeout", """
import asyncio, async_timeout
async def go():
    async with async_timeout.timeout(5): return 1
assert asyncio.run(go()) == 1"""),
    (174, "jaraco-classes", """
from jaraco.classes.properties import NonDataProperty
assert NonDataProperty"""),
    (180, "itsdangerous", """
from itsdangerous import URLSafeSerializer
s = URLSafeSerializer('k')
assert s.loads(s.dumps([1])) == [1]"""),
    (185, "jaraco-functools", """
from jaraco.functools import compose
assert compose(str, abs)(-1) == '1'"""),
    (187, "jaraco-context", """
from jaraco.context import suppress
with suppress(ValueError):
    raise ValueError"""),
    (195, "email-validator", """
from email_validator import validate_email
assert validate_email('a@exämple.com', check_deliverability=False).ascii_domain == 'xn--exmple-cua.com'"""),
    (196, "deprecated", """
import warnings
from deprecated import deprecated
@deprecated(version='1')
def f(): return 1
with warnings.catch_warnings():
    warnings.simplefilter('ignore')
    assert f() == 1"""),
    (200, "chardet", """
import chardet
assert chardet.detect('Привет, как дела? Всё хорошо'.encode('cp1251') * 9)['encoding']"""),
    (201, "ruamel-yaml", """
import io
from ruamel.yaml import YAML
y = YAML(); d = y.load('a: 1 # x')
b = io.StringIO(); y.dump(d, b)
assert b.getvalue() == 'a: 1 # x\\n'"""),
    (202, "defusedxml", """
import defusedxml.ElementTree as E
assert E.fromstring('<a>1</a>').text == '1'
try:
    E.fromstring('<!DOCTYPE a [<!ENTITY b "c">]><a>&b;</a>')
    assert False
except ValueError:
    pass"""),
    (205, "blinker", """
import blinker
s = blinker.signal('x'); got = []
def f(sender): got.append(sender)
s.connect(f); s.send(1)
assert got == [1]"""),
    (210, "mako", """
from mako.template import Template
assert Template('${a + 1}').render(a=1) == '2'"""),
    (211, "cycler", """
from cycler import cycler
assert len(cycler(a=[1, 2])) == 2"""),
    (213, "toml", """
import toml
assert toml.loads(toml.dumps({'a': [1]})) == {'a': [1]}"""),
    (216, "sympy", """
import sympy
x = sympy.symbols('x')
assert sympy.diff(x**2) == 2 * x"""),
    (217, "jsonpointer", """
import jsonpointer
assert jsonpointer.resolve_pointer({'a': [1]}, '/a/0') == 1"""),
    (228, "uritemplate", """
import uritemplate
assert uritemplate.expand('/a{?b}', b='c') == '/a?b=c'"""),
    (232, "asn1crypto", """
from asn1crypto.core import Integer
assert Integer.load(Integer(5).dump()).native == 5"""),
    (237, "traitlets", """
import traitlets
class A(traitlets.HasTraits):
    x = traitlets.Int(1)
assert A(x=3).x == 3"""),
    (252, "parso", """
import parso
assert parso.parse('a = 1').children[0].get_code() == 'a = 1'"""),
    (253, "backoff", """
import backoff
n = []
@backoff.on_exception(backoff.constant, ValueError, max_tries=3, interval=0, jitter=None)
def f():
    n.append(1)
    if len(n) < 2: raise ValueError
    return 1
assert f() == 1"""),
    (256, "h2", """
import h2.connection
c = h2.connection.H2Connection(); c.initiate_connection()
assert c.data_to_send()[:3] == b'PRI'"""),
    (257, "marshmallow", """
from marshmallow import Schema, fields
class S(Schema):
    a = fields.Integer(required=True)
assert S().load({'a': '1'}) == {'a': 1} and S().validate({})"""),
    (258, "hyperframe", """
from hyperframe.frame import PingFrame
assert len(PingFrame(opaque_data=b'12345678').serialize()) == 17"""),
    (259, "fastjsonschema", """
import fastjsonschema
assert fastjsonschema.compile({'type': 'string'})('a') == 'a'"""),
    (260, "hpack", """
import hpack
assert hpack.Decoder().decode(hpack.Encoder().encode([('a', 'b')])) == [('a', 'b')]"""),
    (262, "sqlparse", """
import sqlparse
assert 'SELECT' in sqlparse.format('select 1', keyword_case='upper')"""),
    (263, "mpmath", """
import mpmath
mpmath.mp.dps = 30
assert str(mpmath.sqrt(2)).startswith('1.41421356237309504880')"""),
    (264, "durationpy", """
import durationpy
assert durationpy.from_str('1h2m').total_seconds() == 3720"""),
    (266, "jsonpatch", """
import jsonpatch
assert jsonpatch.apply_patch({'a': 1}, [{'op': 'remove', 'path': '/a'}]) == {}"""),
    (267, "asttokens", """
import asttokens, ast
a = asttokens.ASTTokens('x = f(1)', parse=True)
assert a.get_text(a.tree.body[0].value) == 'f(1)'"""),
    (273, "babel", """
import datetime
from babel.dates import format_date
assert format_date(datetime.date(2026, 1, 2), locale='de') == '02.01.2026'"""),
    (289, "xmltodict", """
import xmltodict
assert xmltodict.parse('<a><b>1</b></a>') == {'a': {'b': '1'}}"""),
)]

LEFT_OUT = {
    "its work is a connection of its own, or a server": """
        boto3 urllib3 requests botocore aiobotocore grpcio-status anyio s3transfer httpx httpcore s3fs aiohttp
        starlette uvicorn google-auth litellm fastapi aiohappyeyeballs google-api-core requests-oauthlib awscli
        websockets sse-starlette openai requests-toolbelt mcp websocket-client
        opentelemetry-exporter-otlp-proto-http langchain huggingface-hub pydantic-ai-slim dnspython werkzeug
        google-cloud-storage redis google-genai psycopg2-binary opentelemetry-exporter-otlp-proto-grpc docker
        azure-core httpx-sse azure-identity flask google-cloud-core msal google-resumable-media
        snowflake-connector-python kubernetes google-api-python-client databricks-sql-connector
        google-cloud-aiplatform opentelemetry-exporter-otlp google-auth-oauthlib google-auth-httplib2
        google-cloud-bigquery opentelemetry-instrumentation-requests opentelemetry-util-http
        google-cloud-secret-manager paramiko httplib2 ydb google-cloud-batch weaviate-client msal-extensions
        azure-storage-blob google-analytics-admin gunicorn anthropic grpc-google-iam-v1 sentry-sdk
        google-cloud-compute google-cloud-kms langchain-core asgiref tornado gcsfs alembic sqlalchemy
        pydantic-graph""",
    "it does nothing without its compiled part": """
        cryptography pydantic cffi numpy pydantic-core pandas rpds-py pillow greenlet grpcio pyarrow scipy lxml
        psutil regex sglang watchfiles jiter grpcio-tools pyopenssl pynacl ruff uvloop httptools matplotlib
        scikit-learn hf-xet bcrypt kiwisolver contourpy orjson google-crc32c tokenizers tiktoken xxhash uv
        zstandard rapidfuzz transformers datasets pydantic-settings authlib""",
    "it needs rpds-py, which is compiled (jsonschema 4.17.3, which does not, is in the table)": """
        referencing jsonschema-specifications""",
    "it builds, installs or describes packages on a developer's machine": """
        setuptools pip wheel trove-classifiers virtualenv hatchling distlib editables python-discovery
        poetry-core nodeenv pyproject-hooks build setuptools-scm pre-commit identify cfgv""",
    "it tests, checks or traces a program": """
        pytest coverage pytest-cov pytest-asyncio pytest-json-ctrf mypy types-requests pytest-xdist black
        ipython jedi executing pure-eval stack-data matplotlib-inline opentelemetry-sdk opentelemetry-api
        opentelemetry-semantic-conventions opentelemetry-proto opentelemetry-exporter-otlp-proto-common
        opentelemetry-instrumentation prometheus-client""",
    "it is for a command line or a terminal": """
        click tqdm colorama typer shellingham textual prompt-toolkit ptyprocess pexpect""",
    "it is about files, processes or settings of the machine": """
        certifi fsspec platformdirs filelock distro gitpython smmap gitdb keyring secretstorage jeepney
        multiprocess joblib dill cloudpickle threadpoolctl tzlocal aiofiles""",
}
"""Reason -> the packages of the ranking before the hundredth row that are not in the table."""
