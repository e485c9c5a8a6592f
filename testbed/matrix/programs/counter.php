<?php
$f = fopen('/data/count', 'c+');
flock($f, LOCK_EX);
$n = (int) fgets($f) + 1;
ftruncate($f, 0);
rewind($f);
fwrite($f, "$n\n");
fflush($f);
flock($f, LOCK_UN);
header('Content-Length: ' . strlen("$n\n"));
echo "$n\n";
